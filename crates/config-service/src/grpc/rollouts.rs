//! Staged rollouts, and which clients run with which version.

use insula_config_model::{Plan, Share};
use insula_config_proto::v1;
use insula_config_proto::v1::rollouts_server::Rollouts;
use insula_problem::{Code, Problem};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};

use super::{Grpc, convert};
use crate::acknowledged::Clients;
use crate::reading::page;
use crate::rollouts::{NewRollout, Progress, Steer, share};
use crate::wire::microseconds;

#[tonic::async_trait]
impl Rollouts for Grpc {
    async fn start(
        &self,
        request: Request<v1::StartRolloutRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        self.answer("Start", request, async |caller, request| {
            let begun = self.service.start_rollout(&caller, asked(request)?).await?;
            Ok(message(&begun, self.service.now()))
        })
        .await
    }

    async fn show(&self, request: Request<v1::ShowRolloutRequest>) -> Result<Response<v1::Rollout>, Status> {
        self.answer("Show", request, async |caller, request| {
            let found = self.service.rollout(&caller, &request.scope, &request.key).await?;
            Ok(message(&found, self.service.now()))
        })
        .await
    }

    async fn steer(
        &self,
        request: Request<v1::SteerRolloutRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        self.answer("Steer", request, async |caller, request| {
            use v1::steer_rollout_request::Act;
            let steer = match request.act() {
                Act::Pause => Steer::Pause,
                Act::Resume => Steer::Resume,
                Act::Abort => Steer::Abort,
                Act::Unspecified => {
                    let detail = "A rollout is paused, resumed or aborted.";
                    return Err(Problem::new(Code::InvalidRequest, detail).at("/act", "is missing"));
                }
            };
            let place = (request.scope.as_str(), request.key.as_str());
            let steered = self.service.steer_rollout(&caller, place, steer, request.cause).await?;
            Ok(message(&steered, self.service.now()))
        })
        .await
    }

    async fn list(
        &self,
        request: Request<v1::ListRolloutsRequest>,
    ) -> Result<Response<v1::ListRolloutsResponse>, Status> {
        self.answer("ListRollouts", request, async |caller, request| {
            let found = self.service.rollouts(&caller, &request.scope).await?;
            let rollouts = found.iter().map(|one| message(one, self.service.now())).collect();
            Ok(v1::ListRolloutsResponse { rollouts })
        })
        .await
    }

    async fn clients(
        &self,
        request: Request<v1::ClientsRequest>,
    ) -> Result<Response<v1::ClientsResponse>, Status> {
        self.answer("Clients", request, async |caller, request| {
            let place = (request.scope.as_str(), request.key.as_str());
            let found = self.service.clients(&caller, place, page(request.limit.into())).await?;
            Ok(clients_message(found))
        })
        .await
    }
}

fn asked(request: v1::StartRolloutRequest) -> Result<NewRollout, Problem> {
    let missing = || Problem::new(Code::InvalidRequest, "/op is missing.").at("/op", "is missing");
    let write = convert::operation(request.op.ok_or_else(missing)?)?;
    let plan = Plan {
        steps: request.steps.into_iter().map(share).collect::<Result<_, _>>()?,
        tenants: Vec::new(),
        bake_seconds: request.bake_seconds,
        rejections: request.rejections,
        confirmations: request.confirmations,
    };
    Ok(NewRollout { write, plan, tenants: request.tenants })
}

fn message(progress: &Progress, now: OffsetDateTime) -> v1::Rollout {
    let Progress { rollout, health, .. } = progress;
    v1::Rollout {
        key: progress.key.to_string(),
        scope: progress.scope.to_string(),
        version: rollout.candidate,
        state: rollout.state.as_str().to_owned(),
        step: u32::try_from(rollout.step + 1).unwrap_or(u32::MAX),
        steps: rollout.plan.steps.iter().copied().map(Share::percent).collect(),
        bake_seconds: rollout.plan.bake_seconds,
        baked_seconds: rollout.baked(now),
        confirmed: health.confirmed,
        rejecting: health.rejecting,
        rejection: health.rejection.clone().unwrap_or_default(),
        cause: rollout.cause.clone(),
        author: progress.author.clone(),
        at_us: microseconds(progress.at),
    }
}

fn clients_message(found: Clients) -> v1::ClientsResponse {
    use v1::clients_response::{Client, Version};
    let versions = found.versions.into_iter().map(|runs| Version {
        set_in: runs.set_in.to_string(),
        version: runs.version,
        running: runs.running,
        refusing: runs.refusing,
    });
    let clients = found.clients.into_iter().map(|one| Client {
        tenant: one.tenant.to_string(),
        client_id: one.client_id,
        set_in: one.run.set_in.to_string(),
        version: one.run.version,
        rejection: one.run.rejection.unwrap_or_default(),
        revision: one.revision,
        at_us: microseconds(one.at),
    });
    v1::ClientsResponse { versions: versions.collect(), clients: clients.collect() }
}
