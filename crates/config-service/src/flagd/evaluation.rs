//! `flagd.evaluation`: flags evaluated here, in both versions of the protocol,
//! which differ in whether an answer can be without a value.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use insula_config_flags::{Asking, Purse};
use insula_config_proto::Struct;
use insula_config_proto::flagd::evaluation::{v1, v2};
use insula_problem::Problem;
use serde_json::{Map, Value, json};
use tonic::{Request, Response, Status};

use super::Flagd;
use super::answer::{Answer, Typed, ask, ask_one};
use super::credential::tenant;
use super::set::FlagSet;
use super::structs::{context, object};
use super::sync::Change;
use crate::grpc::{settle, status};

/// What all flags of a tenant may cost together: so many of the most costly rules.
const ALL_RULES: usize = 20;

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Flagd {
    /// The flags of the tenant that asks.
    async fn asked<T>(&self, request: &Request<T>) -> Result<std::sync::Arc<FlagSet>, Status> {
        let answered = async {
            let (flags, _) = self.flags(&tenant(request)?).await?;
            Ok(flags.evaluated)
        };
        let answered: Result<_, Problem> = answered.await;
        settle("flagd.Resolve", None, answered.as_ref().err());
        answered.map_err(|problem| status(&problem))
    }

    async fn resolve<T: Typed>(
        &self,
        request: &Request<()>,
        name: &str,
        given: Option<Struct>,
    ) -> Result<Answer<T>, Status> {
        let set = self.asked(request).await?;
        ask(&set, name, &mut self.asking(given, 1))
    }

    /// Who asks, and may pay for so many of the most costly rules.
    fn asking(&self, given: Option<Struct>, rules: usize) -> Asking {
        let now = self.service.clock.now().unix_timestamp();
        Asking::new(context(given), now, Purse::for_rules(rules))
    }

    /// Every flag that has a value. What they may cost is bounded together, and
    /// others have their turn between two of them.
    async fn all_flags(
        &self,
        request: &Request<()>,
        given: Option<Struct>,
    ) -> Result<Vec<(String, Answer<Value>)>, Status> {
        let set = self.asked(request).await?;
        let mut asking = self.asking(given, ALL_RULES);
        let mut answers = Vec::new();
        for (name, found) in set.iter() {
            match ask_one::<Value>(found, name, &mut asking) {
                Ok(answer) if answer.chosen.is_some() => answers.push((name.to_owned(), answer)),
                _ if asking.is_broke() => {
                    return Err(Status::resource_exhausted(
                        "All flags together take too many steps: ask for one.",
                    ));
                }
                _ => {}
            }
            tokio::task::yield_now().await;
        }
        Ok(answers)
    }

    /// The events of a stream: ready, and then which flags have changed.
    async fn events<T>(
        &self,
        request: &Request<T>,
    ) -> Result<Events<(&'static str, Option<Struct>)>, Status> {
        let changes = self.changes(request).await?;
        let told = changes.filter_map(|change| async move {
            match change {
                Ok(Change::First(_)) => Some(Ok(("provider_ready", None))),
                Ok(Change::Changed { names, .. }) if !names.is_empty() => {
                    let flags: Map<String, Value> = names
                        .into_iter()
                        .map(|(name, what)| (name, json!({"type": what, "source": "insula"})))
                        .collect();
                    let mut data = Map::new();
                    data.insert("flags".to_owned(), Value::Object(flags));
                    Some(Ok(("configuration_change", Some(object(&data)))))
                }
                Ok(Change::Changed { .. }) => None,
                Err(problem) => Some(Err(status(&problem))),
            }
        });
        Ok(Box::pin(told))
    }
}

/// The request without its message, which was taken out.
fn taken<T>(request: Request<T>) -> (Request<()>, T) {
    let (metadata, extensions, message) = request.into_parts();
    (Request::from_parts(metadata, extensions, ()), message)
}

/// In the first version every answer has a value: the type's empty one where
/// there is none. A flag that is not to be used is there as little as none.
mod plain {
    use insula_config_flags::Reason;
    use tonic::Status;

    use crate::flagd::answer::Answer;

    pub(super) fn value<T: Default>(value: Option<T>) -> T {
        value.unwrap_or_default()
    }

    pub(super) fn enabled<T>(answer: Answer<T>) -> Result<Answer<T>, Status> {
        if answer.reason == Reason::Disabled {
            return Err(Status::not_found("FLAG_DISABLED: the flag is disabled"));
        }
        Ok(answer)
    }
}

/// In the second version an answer can be without a value.
mod optional {
    use tonic::Status;

    use crate::flagd::answer::Answer;

    pub(super) fn value<T>(value: Option<T>) -> Option<T> {
        value
    }

    pub(super) fn enabled<T>(answer: Answer<T>) -> Result<Answer<T>, Status> {
        Ok(answer)
    }
}

macro_rules! service {
    ($version:ident, $answers:ident, { $($method:ident, $request:ident, $response:ident, $type:ty;)* }) => {
        #[tonic::async_trait]
        impl $version::service_server::Service for Flagd {
            $(
                async fn $method(
                    &self,
                    request: Request<$version::$request>,
                ) -> Result<Response<$version::$response>, Status> {
                    let (head, asked) = taken(request);
                    let answer = self.resolve::<$type>(&head, &asked.flag_key, asked.context).await?;
                    let answer = $answers::enabled(answer)?;
                    let (value, variant) = answer.chosen.unzip();
                    Ok(Response::new($version::$response {
                        value: $answers::value(value),
                        variant: $answers::value(variant),
                        reason: answer.reason.as_str().to_owned(),
                        metadata: Some(answer.metadata),
                    }))
                }
            )*

            async fn resolve_object(
                &self,
                request: Request<$version::ResolveObjectRequest>,
            ) -> Result<Response<$version::ResolveObjectResponse>, Status> {
                let (head, asked) = taken(request);
                let answer = self.resolve::<Struct>(&head, &asked.flag_key, asked.context).await?;
                let answer = $answers::enabled(answer)?;
                let (value, variant) = answer.chosen.unzip();
                Ok(Response::new($version::ResolveObjectResponse {
                    value,
                    variant: $answers::value(variant),
                    reason: answer.reason.as_str().to_owned(),
                    metadata: Some(answer.metadata),
                }))
            }

            async fn resolve_all(
                &self,
                request: Request<$version::ResolveAllRequest>,
            ) -> Result<Response<$version::ResolveAllResponse>, Status> {
                let (head, asked) = taken(request);
                let flags = self.all_flags(&head, asked.context).await?.into_iter().filter_map(|(name, answer)| {
                    let (value, variant) = answer.chosen?;
                    use $version::any_flag::Value as Any;
                    let value = match value {
                        Value::Bool(value) => Any::BoolValue(value),
                        Value::String(value) => Any::StringValue(value),
                        Value::Number(value) => Any::DoubleValue(value.as_f64()?),
                        Value::Object(value) => Any::ObjectValue(object(&value)),
                        Value::Null | Value::Array(_) => return None,
                    };
                    let flag = $version::AnyFlag {
                        value: Some(value),
                        variant: $answers::value(Some(variant)),
                        reason: answer.reason.as_str().to_owned(),
                        metadata: Some(answer.metadata),
                    };
                    Some((name, flag))
                });
                Ok(Response::new($version::ResolveAllResponse { flags: flags.collect(), metadata: None }))
            }

            type EventStreamStream = Events<$version::EventStreamResponse>;

            async fn event_stream(
                &self,
                request: Request<$version::EventStreamRequest>,
            ) -> Result<Response<Self::EventStreamStream>, Status> {
                let events = self.events(&request).await?.map(|event| {
                    event.map(|(kind, data)| $version::EventStreamResponse { r#type: kind.to_owned(), data })
                });
                Ok(Response::new(Box::pin(events) as Self::EventStreamStream))
            }
        }
    };
}

service!(v1, plain, {
    resolve_boolean, ResolveBooleanRequest, ResolveBooleanResponse, bool;
    resolve_string, ResolveStringRequest, ResolveStringResponse, String;
    resolve_float, ResolveFloatRequest, ResolveFloatResponse, f64;
    resolve_int, ResolveIntRequest, ResolveIntResponse, i64;
});
service!(v2, optional, {
    resolve_boolean, ResolveBooleanRequest, ResolveBooleanResponse, bool;
    resolve_string, ResolveStringRequest, ResolveStringResponse, String;
    resolve_float, ResolveFloatRequest, ResolveFloatResponse, f64;
    resolve_int, ResolveIntRequest, ResolveIntResponse, i64;
});
