//! `insula cluster …` and `insula region …`

use insula_api::{AddCluster, Cluster, ClusterCapacity, Region};
use insula_domain::Address;
use reqwest::Method;

use crate::args::{ClusterCommand, Format, RegionCommand};
use crate::client::{Client, Failure, segment};
use crate::output::{self, or_dash, time};

/// `insula cluster …`
pub async fn clusters(client: &Client, format: Format, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::List => {
            let clusters: Vec<Cluster> = client.list("/v1/clusters").await?;
            let columns =
                ["cluster", "region", "address", "version", "status", "tenants", "schema", "belongs to"];
            output::list(format, &clusters, &columns, |cluster| {
                vec![
                    cluster.name.to_string(),
                    cluster.region.to_string(),
                    Address::new(&cluster.host, cluster.port).to_string(),
                    cluster.server_version.clone(),
                    cluster.status.clone(),
                    cluster.tenants.to_string(),
                    format!("v{}", cluster.schema_version),
                    or_dash(cluster.tenant_id.as_ref()),
                ]
            })
        }
        ClusterCommand::Show { name } => {
            let cluster: Cluster = client.get(&format!("/v1/clusters/{}", segment(&name))).await?;
            show(format, &cluster)
        }
        ClusterCommand::Add {
            name,
            region,
            database_url,
            pool_capacity,
            schema_capacity,
            database_capacity,
        } => {
            let capacity =
                ClusterCapacity { pool: pool_capacity, schema: schema_capacity, database: database_capacity };
            let request = AddCluster { name, region, url: database_url, capacity: Some(capacity) };
            let cluster: Cluster = client.send(Method::POST, "/v1/clusters", &request).await?;
            show(format, &cluster)
        }
    }
}

fn show(format: Format, cluster: &Cluster) -> Result<(), Failure> {
    let fields = [
        ("name", cluster.name.to_string()),
        ("region", cluster.region.to_string()),
        ("address", Address::new(&cluster.host, cluster.port).to_string()),
        ("tls", cluster.tls.to_string()),
        ("version", cluster.server_version.clone()),
        ("status", cluster.status.clone()),
        ("tenants", cluster.tenants.to_string()),
        ("pool capacity", cluster.capacity.pool.to_string()),
        ("schema capacity", cluster.capacity.schema.to_string()),
        ("database capacity", cluster.capacity.database.to_string()),
        ("schema version", cluster.schema_version.to_string()),
        ("belongs to", or_dash(cluster.tenant_id.as_ref())),
        ("created", time(cluster.created_at)),
    ];
    output::one(format, cluster, &fields)
}

/// `insula region …`
pub async fn regions(client: &Client, format: Format, command: RegionCommand) -> Result<(), Failure> {
    let RegionCommand::List = command;
    let regions: Vec<Region> = client.list("/v1/regions").await?;
    output::list(format, &regions, &["region", "groups"], |region| {
        let groups: Vec<_> = region.groups.iter().map(|group| group.as_str()).collect();
        vec![region.name.to_string(), groups.join(", ")]
    })
}
