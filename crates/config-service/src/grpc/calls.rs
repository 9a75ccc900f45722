//! The calls that have one answer. Watches are served by [`super::watch`].

use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use insula_config_model::Explained;
use insula_config_proto::v1;
use insula_config_proto::v1::config_server::Config;
use insula_problem::Problem;
use tonic::{Request, Response, Status};

use super::status::{settle, status};
use super::{Grpc, caller, convert};
use crate::caller::Caller;
use crate::reading::{Asked, after, page};
use crate::wire::entry;
use crate::writing::{NewWrite, check_count};

/// Bytes of a large value that are sent at once.
const CHUNK: usize = 64 << 10;

type Chunks = Pin<Box<dyn Stream<Item = Result<v1::Chunk, Status>> + Send>>;

impl Grpc {
    /// Says who calls, and how it went.
    pub(super) async fn answer<T, R, F>(
        &self,
        method: &'static str,
        request: Request<T>,
        answer: impl FnOnce(Caller, T) -> F,
    ) -> Result<Response<R>, Status>
    where
        F: Future<Output = Result<R, Problem>>,
    {
        let began = Instant::now();
        let caller = caller(&request).map_err(|problem| status(&problem))?;
        let who = caller.name();
        let answered = answer(caller, request.into_inner()).await;
        metrics::histogram!(crate::measure::CALL_SECONDS, "method" => method)
            .record(began.elapsed().as_secs_f64());
        settle(method, Some(&who), answered.as_ref().err());
        answered.map(Response::new).map_err(|problem| status(&problem))
    }

    async fn write(&self, caller: Caller, write: NewWrite, token: String) -> Result<v1::Written, Problem> {
        let done = self.service.transact(&caller, vec![write], Some(token)).await?;
        let first = done.first().ok_or_else(|| Problem::internal("a write has no answer"))?;
        Ok(convert::written(first))
    }
}

#[tonic::async_trait]
impl Config for Grpc {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        self.answer("Get", request, async |caller, asked| {
            let found = self.service.get(&caller, &convert::asked(asked)).await?;
            Ok(v1::GetResponse { entry: Some(entry(&found)) })
        })
        .await
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        self.answer("List", request, async |caller, request| {
            let asked = Asked {
                key: request.prefix,
                scope: request.scope,
                own: request.own,
                which: None,
                reveal: request.reveal,
            };
            let after = after(&request.cursor)?;
            let limit = page(request.limit.into());
            let listed = self.service.list(&caller, &asked, limit, after.as_ref()).await?;
            Ok(v1::ListResponse {
                entries: listed.entries.iter().map(entry).collect(),
                next_cursor: listed.cursor().unwrap_or_default(),
                revision: listed.revision,
            })
        })
        .await
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::Written>, Status> {
        self.answer("Put", request, async |caller, request| {
            let (write, token) = convert::put(request)?;
            self.write(caller, write, token).await
        })
        .await
    }

    async fn remove(&self, request: Request<v1::RemoveRequest>) -> Result<Response<v1::Written>, Status> {
        self.answer("Remove", request, async |caller, request| {
            let (write, token) = convert::remove(request);
            self.write(caller, write, token).await
        })
        .await
    }

    async fn transact(
        &self,
        request: Request<v1::TransactRequest>,
    ) -> Result<Response<v1::TransactResponse>, Status> {
        self.answer("Transact", request, async |caller, request| {
            check_count(request.ops.len())?;
            let writes = request.ops.into_iter().map(convert::operation).collect::<Result<Vec<_>, _>>()?;
            let done = self.service.transact(&caller, writes, Some(request.token)).await?;
            Ok(v1::TransactResponse { written: done.iter().map(convert::written).collect() })
        })
        .await
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        self.answer("History", request, async |caller, request| {
            let asked = Asked {
                key: request.key,
                scope: request.scope,
                own: true,
                which: None,
                reveal: request.reveal,
            };
            let before = (request.before > 0).then_some(request.before);
            let limit = page(request.limit.into());
            let page = self.service.history(&caller, &asked, before, limit).await?;
            let versions = page.versions.iter().map(entry).collect();
            Ok(v1::HistoryResponse { versions, next_before: page.next.unwrap_or(0) })
        })
        .await
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<v1::Written>, Status> {
        self.answer("Rollback", request, async |caller, request| {
            let (write, token) = convert::rollback(request)?;
            self.write(caller, write, token).await
        })
        .await
    }

    async fn label(&self, request: Request<v1::LabelRequest>) -> Result<Response<v1::Written>, Status> {
        self.answer("Label", request, async |caller, request| {
            self.write(caller, convert::label(request), String::new()).await
        })
        .await
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        self.answer("Explain", request, async |caller, request| {
            let explained = self.service.explain(&caller, &request.scope, &request.key).await?;
            Ok(explained_message(&explained))
        })
        .await
    }

    type WatchStream = stream::Pending<Result<v1::WatchEvent, Status>>;

    async fn watch(
        &self,
        _request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // The router gives its path to the server that encodes once for all.
        Err(Status::unimplemented("watches are served elsewhere"))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        self.answer("Acknowledge", request, async |caller, request| {
            self.service.acknowledge(&caller, request).await?;
            Ok(v1::AcknowledgeResponse {})
        })
        .await
    }

    type FetchStream = Chunks;

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Chunks>, Status> {
        self.answer("Fetch", request, async |caller, request| {
            let (key, scope, sha256) = (request.key, request.scope, request.sha256);
            let large = self.service.fetch(&caller, &scope, &key, &sha256).await?;
            let messages = large.bytes.map_ok(|part| stream::iter(chunks(part))).map_err(|it| status(&it));
            let chunks: Chunks = messages.try_flatten().boxed();
            Ok(chunks)
        })
        .await
    }
}

fn chunks(bytes: Bytes) -> impl Iterator<Item = Result<v1::Chunk, Status>> + Send {
    let count = bytes.len().div_ceil(CHUNK);
    (0..count).map(move |number| {
        let end = bytes.len().min((number + 1) * CHUNK);
        Ok(v1::Chunk { bytes: bytes.slice(number * CHUNK..end) })
    })
}

fn explained_message(explained: &Explained) -> v1::ExplainResponse {
    let layers = explained.layers.iter().zip(explained.passed_over()).map(|(layer, passed_over)| {
        let entry = layer.stored.as_ref().map(entry);
        let stage = layer.stage().map(|(version, percent, reached)| v1::explain_response::Stage {
            version,
            percent,
            reached,
        });
        let passed_over = passed_over.unwrap_or_default();
        v1::explain_response::Layer { scope: layer.scope.to_string(), entry, passed_over, stage }
    });
    let effective = explained.effective().and_then(|index| i32::try_from(index).ok()).unwrap_or(-1);
    v1::ExplainResponse { layers: layers.collect(), effective }
}
