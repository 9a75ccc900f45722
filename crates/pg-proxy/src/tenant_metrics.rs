//! The metrics of tenants in the Prometheus text format, version 0.0.4. They
//! are not the recorder's, which keeps every series that it has ever had.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Instant;

use insula_domain::TenantId;
use insula_route_map::Snapshot;

use crate::front::PgProxy;
use crate::top::Series;

/// The label of all tenants without a series of their own.
const OTHER: &str = "other";

/// What a line says beside the tenant, and the number.
type Value = (&'static str, fn(&Series) -> f64);

/// A metric: its name, kind, help and lines.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    values: &'static [Value],
}

const METRICS: &[Metric] = &[
    Metric {
        name: "insula_pg_tenant_sessions",
        kind: "gauge",
        help: "Sessions of the PostgreSQL front, by tenant",
        values: &[("", |series| series.clients.into())],
    },
    Metric {
        name: "insula_pg_tenant_waiting_sessions",
        kind: "gauge",
        help: "Sessions that wait for a backend, by tenant",
        values: &[("", |series| series.held.waiting.into())],
    },
    Metric {
        name: "insula_pg_tenant_backends",
        kind: "gauge",
        help: "Backends of the PostgreSQL front, by tenant and state",
        values: &[
            (r#",state="used""#, |series| series.held.open.saturating_sub(series.held.idle).into()),
            (r#",state="idle""#, |series| series.held.idle.into()),
        ],
    },
    Metric {
        name: "insula_pg_tenant_transactions_total",
        kind: "counter",
        help: "Transactions that have ended, by tenant",
        values: &[("", |series| number(series.counts.transactions))],
    },
    Metric {
        name: "insula_pg_tenant_waits_total",
        kind: "counter",
        help: "Waits for a backend that are over, by tenant",
        values: &[("", |series| number(series.counts.waits))],
    },
    Metric {
        name: "insula_pg_tenant_wait_seconds_total",
        kind: "counter",
        help: "Time that sessions have waited for a backend, by tenant",
        values: &[("", |series| number(series.counts.waited_us) / 1e6)],
    },
    Metric {
        name: "insula_pg_tenant_pins_total",
        kind: "counter",
        help: "Sessions that had to keep their backend, by tenant",
        values: &[("", |series| number(series.counts.pins))],
    },
    Metric {
        name: "insula_pg_tenant_bytes_total",
        kind: "counter",
        help: "Bytes relayed, by tenant and direction",
        values: &[
            (r#",direction="from_clients""#, |series| number(series.counts.bytes_from_clients)),
            (r#",direction="to_clients""#, |series| number(series.counts.bytes_to_clients)),
        ],
    },
    Metric {
        name: "insula_pg_tenant_errors_total",
        kind: "counter",
        help: "Errors that clients were sent, by tenant",
        values: &[("", |series| number(series.counts.errors))],
    },
];

#[allow(clippy::cast_precision_loss)] // Prometheus' numbers are such
fn number(count: u64) -> f64 {
    count as f64
}

impl PgProxy {
    /// The metrics of the busiest tenants, so many at the most, and of all the
    /// others together, in the Prometheus text format. Each call is one look of
    /// the reader: what was counted since the last one is shared out by it.
    #[must_use]
    pub fn tenant_metrics(&self, most: usize) -> String {
        let snapshot = self.front.parts.routes.snapshot();
        let samples = self.samples();
        let (own, rest) = self.front.top().turn(Instant::now(), most, &samples);
        let mut lines: Vec<_> = own.iter().map(|(id, series)| (label(*id, &snapshot), series)).collect();
        lines.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        lines.push((OTHER.to_owned(), &rest));
        write(&lines)
    }

    fn samples(&self) -> HashMap<TenantId, Series> {
        let mut samples: HashMap<TenantId, Series> = HashMap::new();
        for (tenant, account) in self.front.accounts.all() {
            samples.entry(tenant).or_default().counts = account.counts();
        }
        for (tenant, clients) in self.front.tenants.all() {
            samples.entry(tenant).or_default().clients = clients;
        }
        for (tenant, held) in self.holdings() {
            samples.entry(tenant).or_default().held = held;
        }
        samples
    }
}

/// The slug, which needs no escape; the id of a tenant that is gone, and of one
/// whose slug is the label of the others.
fn label(tenant: TenantId, snapshot: &Snapshot) -> String {
    let slug = snapshot.route(tenant).map(|route| route.slug.as_str());
    slug.filter(|slug| *slug != OTHER).map_or_else(|| tenant.to_string(), str::to_owned)
}

fn write(lines: &[(String, &Series)]) -> String {
    let mut text = String::new();
    for Metric { name, kind, help, values } in METRICS {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (tenant, series) in lines {
            for (more, value) in *values {
                let _ = writeln!(text, "{name}{{tenant=\"{tenant}\"{more}}} {}", value(series));
            }
        }
    }
    text
}
