//! Rules that one value alone does not show: what must be there, what must
//! not be nothing, what must fit together. Pure.

use std::collections::BTreeSet;

use crate::error::{Fault, SettingsError};
use crate::length::HumanDuration;
use crate::role::Role;
use crate::secret::SecretText;
use crate::sections::{ProvisionerKind, Settings};

/// Tenants with series of their own, of which each has a dozen.
const TOP_TENANTS_MAX: u32 = 1_000;

impl Settings {
    /// Checks what one value alone does not show. [`Settings::load`] has done
    /// it; settings that were made or changed in code want it again.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let faults = self.faults();
        if faults.is_empty() { Ok(()) } else { Err(SettingsError { faults }) }
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.check_server(&mut faults);
        self.check_listeners(&mut faults);
        self.check_stores(&mut faults);
        self.check_regions(&mut faults);
        self.check_backends(&mut faults);
        self.check_bounds(&mut faults);
        self.check_otel(&mut faults);
        self.check_provisioner(&mut faults);
        faults
    }

    fn check_server(&self, faults: &mut Vec<Fault>) {
        if self.server.roles.is_empty() {
            faults.push(Fault::new("server.roles", "name at least one of control, pg-proxy, worker, config"));
        }
        if self.log.filter.trim().is_empty() {
            faults.push(Fault::new("log.filter", "expected a level, as in \"info\""));
        }
    }

    fn check_listeners(&self, faults: &mut Vec<Fault>) {
        let front = self.server.roles.contains(&Role::PgProxy);
        if self.http.listen.is_empty() {
            // Every role has health and metrics.
            faults.push(Fault::new("http.listen", "expected at least one address"));
        }
        if front && self.pg.listen.is_empty() {
            faults.push(Fault::new("pg.listen", "expected at least one address"));
        }
        let config = self.server.roles.contains(&Role::Config);
        if config && self.config.listen.is_empty() {
            faults.push(Fault::new("config.listen", "expected at least one address"));
        }
        let mut taken: BTreeSet<_> = BTreeSet::new();
        let pg = self.pg.listen.iter().filter(|_| front).map(|address| ("pg.listen", address));
        let grpc = self.config.listen.iter().filter(|_| config).map(|address| ("config.listen", address));
        let http = self.http.listen.iter().map(|address| ("http.listen", address));
        for (key, address) in http.chain(pg).chain(grpc) {
            if address.port() != 0 && !taken.insert(address) {
                faults.push(Fault::new(
                    key,
                    format!("{address} is taken by another listener of these settings"),
                ));
            }
        }
        if !is_origin(&self.http.public_url) {
            let detail = "expected a URL without a path, as in \"https://insula.example.com\"";
            faults.push(Fault::new("http.public_url", detail));
        }
        if self.pg.require_tls && self.pg.tls.is_none() {
            faults
                .push(Fault::new("pg.require_tls", "TLS is required and no certificate is given in pg.tls"));
        }
        if let Some(domain) = &self.pg.tenant_domain {
            self.check_tenant_domain(domain, faults);
        }
    }

    fn check_tenant_domain(&self, domain: &str, faults: &mut Vec<Fault>) {
        let mut fault = |detail: &str| faults.push(Fault::new("pg.tenant_domain", detail));
        if !is_domain(domain) {
            fault("expected a domain in small letters, as in \"db.example.com\"");
        }
        if self.pg.tls.is_none() {
            fault("host names are seen with TLS alone, and no certificate is given in pg.tls");
        }
        let public = self.pg.public_address.as_deref().unwrap_or_default().to_ascii_lowercase();
        let host = public.rsplit_once(':').map_or(&*public, |(host, _)| host);
        if host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')) {
            fault("the host of pg.public_address is below it, and would be taken for a tenant's");
        }
    }

    fn check_stores(&self, faults: &mut Vec<Fault>) {
        check_url("catalog.url", &self.catalog.url, self.catalog.url_file.is_some(), faults);
        if !self.keys.master_key.is_set() && self.keys.master_key_file.is_none() {
            faults.push(Fault::new("keys.master_key_file", "expected this or keys.master_key"));
        }
    }

    fn check_regions(&self, faults: &mut Vec<Fault>) {
        if self.regions.is_empty() {
            faults.push(Fault::new("regions", "expected at least one [[regions]]"));
        }
        let mut names = BTreeSet::new();
        for (index, region) in self.regions.iter().enumerate() {
            let key = format!("regions.{index}");
            if !names.insert(&region.name) {
                faults.push(Fault::new(format!("{key}.name"), format!("{} is there twice", region.name)));
            }
            if region.groups.is_empty() {
                faults.push(Fault::new(format!("{key}.groups"), "expected at least one region group"));
            }
            check_url(
                &format!("{key}.store_url"),
                &region.store_url,
                region.store_url_file.is_some(),
                faults,
            );
            not_zero(&format!("{key}.pool_size"), region.pool_size.into(), faults);
        }
    }

    fn check_bounds(&self, faults: &mut Vec<Fault>) {
        for (key, value) in [
            ("http.max_body_bytes", self.http.max_body_bytes),
            ("http.max_in_flight", self.http.max_in_flight.into()),
            ("http.max_connections", self.http.max_connections.into()),
            ("pg.max_sessions", self.pg.max_sessions.into()),
            ("pg.max_backends_per_cluster", self.pg.max_backends_per_cluster.into()),
            ("pg.max_backends_per_tenant", self.pg.max_backends_per_tenant.unwrap_or(1).into()),
            ("config.max_connections", self.config.max_connections.into()),
            ("config.max_streams_per_connection", self.config.max_streams_per_connection.into()),
            ("config.max_watchers", self.config.max_watchers.into()),
            ("config.max_watchers_per_tenant", self.config.max_watchers_per_tenant.into()),
            ("config.max_in_flight", self.config.max_in_flight.into()),
            ("config.max_message_bytes", self.config.max_message_bytes.into()),
            ("config.values_bytes", self.config.values_bytes),
            ("catalog.pool_size", self.catalog.pool_size.into()),
            ("workflow.workers", self.workflow.workers.into()),
        ] {
            not_zero(key, value, faults);
        }
        for (key, value) in [
            ("http.header_timeout", self.http.header_timeout),
            ("http.request_timeout", self.http.request_timeout),
            ("pg.startup_timeout", self.pg.startup_timeout),
            ("pg.connect_timeout", self.pg.connect_timeout),
            ("config.handshake_timeout", self.config.handshake_timeout),
            ("config.call_timeout", self.config.call_timeout),
            ("config.heartbeat", self.config.heartbeat),
            ("config.reconcile_every", self.config.reconcile_every),
            ("otel.timeout", self.otel.timeout),
            ("workflow.poll", self.workflow.poll),
        ] {
            if value.is_zero() {
                faults.push(Fault::new(key, "expected more than no time"));
            }
        }
        if self.metrics.top_tenants > TOP_TENANTS_MAX {
            faults.push(Fault::new("metrics.top_tenants", format!("expected {TOP_TENANTS_MAX} or less")));
        }
        // They are read every 5 s.
        if self.config.followed_within < HumanDuration::from_secs(6) {
            faults.push(Fault::new("config.followed_within", "expected 6s or more"));
        }
        if self.workflow.lease < HumanDuration::from_secs(1) {
            faults.push(Fault::new("workflow.lease", "expected 1s or more"));
        }
        // Idempotency keys lead to operations for a day.
        if self.workflow.keep_ended < HumanDuration::from_days(1) {
            faults.push(Fault::new("workflow.keep_ended", "expected 1d or more"));
        }
    }

    fn check_otel(&self, faults: &mut Vec<Fault>) {
        if !(0.0..=1.0).contains(&self.otel.sample_ratio) {
            faults.push(Fault::new("otel.sample_ratio", "expected a number from 0 to 1"));
        }
        if self.otel.endpoint.as_ref().is_some_and(|endpoint| !is_http_url(endpoint)) {
            faults.push(Fault::new("otel.endpoint", "expected a URL, as in \"http://127.0.0.1:4318\""));
        }
    }

    fn check_provisioner(&self, faults: &mut Vec<Fault>) {
        if self.provisioner.kind != ProvisionerKind::Local {
            return;
        }
        match self.provisioner.local() {
            None => faults.push(Fault::new(
                "provisioner.kind",
                "\"local\" wants data_dir, first_port and last_port in [provisioner]",
            )),
            Some(local) if local.first_port == 0 || local.last_port < local.first_port => {
                faults.push(Fault::new(
                    "provisioner.last_port",
                    "expected first_port or more, and neither to be 0",
                ));
            }
            Some(_) => {}
        }
    }
}

fn not_zero(key: &str, value: u64, faults: &mut Vec<Fault>) {
    if value == 0 {
        faults.push(Fault::new(key, "expected 1 or more"));
    }
}

/// A PostgreSQL URL that is there; one that could not be read from its file
/// was told before. The URL itself is never shown.
fn check_url(key: &str, url: &SecretText, has_file: bool, faults: &mut Vec<Fault>) {
    if !url.is_set() {
        if !has_file {
            faults.push(Fault::new(key, format!("expected this or {key}_file")));
        }
    } else if !["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme)) {
        faults.push(Fault::new(key, "expected a URL, as in \"postgres://user:password@host:5432/database\""));
    }
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && label.len() < 64 && label.chars().all(is_part)
    };
    text.split('.').all(is_label)
}

fn is_http_url(text: &str) -> bool {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    host.is_some_and(|host| {
        !host.is_empty()
            && !host.starts_with('/')
            && !host.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

fn is_origin(text: &str) -> bool {
    is_http_url(text) && text.splitn(3, '/').nth(2).is_some_and(|host| !host.contains(['/', '?', '#', '@']))
}
