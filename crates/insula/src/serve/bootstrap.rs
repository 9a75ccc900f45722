//! What a new Insula needs in its catalog: the regions of the settings, the
//! default plans and tiers where there are none, and the first operator.

use std::collections::BTreeSet;

use insula_catalog::{Author, OperatorToken as TokenRecord, Region};
use insula_control::Control;
use insula_credentials::{OperatorToken, ScramVerifier, Secret};
use insula_domain::{default_plans, default_tiers};
use insula_problem::Problem;
use serde_json::json;

/// An operator whose credentials the caller has.
pub struct Operator {
    /// Who.
    pub email: String,
    /// The token.
    pub token: OperatorToken,
    /// The password.
    pub password: Option<Secret>,
}

/// Writes what is not there yet. Several processes may do it at once.
pub async fn bootstrap(
    control: &Control,
    regions: &[insula_settings::Region],
    operator: Option<Operator>,
) -> Result<(), Problem> {
    let mut client = control.catalog.client().await?;
    let known = client.regions().await?;
    let missing: Vec<Region> = regions
        .iter()
        .map(|region| Region {
            name: region.name.clone(),
            groups: region.groups.iter().cloned().collect::<BTreeSet<_>>(),
        })
        .filter(|region| {
            !known.iter().any(|there| there.name == region.name && region.groups.is_subset(&there.groups))
        })
        .collect();
    let empty = client.tiers().await?.is_empty();
    let change = client.change(author(control)).await?;
    for region in &missing {
        change.put_region(region).await?;
        change.audit("region.put", None, region.name.as_str(), &json!({"groups": region.groups})).await?;
    }
    if empty {
        for plan in default_plans() {
            change.put_plan(&plan).await?;
        }
        for tier in default_tiers() {
            change.put_tier(&tier).await?;
        }
        change.audit("offers.default", None, "tiers and plans", &json!({})).await?;
    }
    if empty || !missing.is_empty() {
        change.commit().await?;
    } else {
        drop(change);
    }
    match operator {
        Some(operator) => add_operator(control, operator).await,
        None => Ok(()),
    }
}

async fn add_operator(control: &Control, operator: Operator) -> Result<(), Problem> {
    let mut client = control.catalog.client().await?;
    let known_token = client.operator_token(operator.token.id()).await?.is_some();
    let known_password = match (&operator.password, client.operator_verifier(&operator.email).await?) {
        (None, _) => true,
        (Some(password), Some(text)) => {
            text.parse::<ScramVerifier>().is_ok_and(|verifier| verifier.verifies(password))
        }
        (Some(_), None) => false,
    };
    if known_token && known_password {
        return Ok(());
    }
    let change = client.change(author(control)).await?;
    if !known_token {
        let record = TokenRecord {
            id: operator.token.id(),
            email: operator.email.clone(),
            secret_hash: operator.token.hash().as_bytes().to_vec(),
            created_at: control.clock.now(),
        };
        change.add_operator_token(&record).await?;
    }
    if let Some(password) = operator.password.filter(|_| !known_password) {
        let verifier = ScramVerifier::for_login(&password, control.entropy.as_ref()).to_text();
        change.put_operator(&operator.email, &verifier).await?;
    }
    change.audit("operator.add", None, &operator.email, &json!({})).await?;
    change.commit().await
}

fn author(control: &Control) -> Author {
    Author::new("boot", control.clock.now())
}
