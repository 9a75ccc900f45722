//! What the HTTP API takes and gives, shared by the server and the command
//! line, so that the two cannot disagree. Pure data; the rules are elsewhere.

mod clusters;
mod config;
mod config_rollout;
mod config_tags;
mod doctor;
mod logins;
mod moves;
mod offers;
mod operations;
mod page;
mod pg;
mod schema;
mod tenants;

pub use clusters::{AddCluster, Cluster, ClusterCapacity, Region};
pub use config::{
    AcknowledgeConfig, ConfigAct, ConfigBlob, ConfigClientState, ConfigEntry, ConfigEvent, ConfigExplained,
    ConfigLarge, ConfigLayer, ConfigRead, ConfigTransacted, ConfigWrite, ConfigWritten, LabelConfig,
    RollbackConfig, TransactConfig,
};
pub use config_rollout::{
    ConfigClientRun, ConfigClients, ConfigRollout, ConfigStage, ConfigVersionRuns, StartConfigRollout,
    SteerConfigRollout,
};
pub use config_tags::{ConfigEventsTaken, ConfigTagPlace, MoveConfigTag};
pub use doctor::{DoctorReport, Finding, FindingKind, Note};
pub use insula_problem::{FieldProblem, ProblemBody};
pub use logins::{
    ApiKey, CreateApiKey, CreateLogin, CreatedApiKey, CreatedLogin, Login, LoginUrl, MintToken, MintedToken,
};
pub use moves::{Move, MoveDisk, MoveObstacle, MovePlan, PlannedStep, StartMove};
pub use offers::{PutPlan, PutTier, TierAfterPut};
pub use operations::{Operation, OperationError, OperationStatus, Step, StepStatus};
pub use page::Page;
pub use pg::{PgBackend, PgBackendState, PgClient, PgClientState, PgList, PgTenant, PgWaits};
pub use schema::{
    ApplySchema, AuditFinding, BlueprintStatus, BlueprintUrl, CaptureNote, CaptureSchema, CapturedSchema,
    CheckSchema, DriftDifference, ObjectFinding, OpenBlueprint, PlacementVersion, RebuildBlueprint, Rollout,
    RolloutCounts, RolloutPlacement, SchemaAudit, SchemaCheck, SchemaFailure, SchemaFile, SchemaStatus,
    SchemaVersionInfo, TenantDrift,
};
pub use tenants::{AuditEntry, CreateTenant, Tenant, UpdateTenant};
