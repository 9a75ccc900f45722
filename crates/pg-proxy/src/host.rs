//! Which tenant a client names by the host name in its TLS handshake:
//! `acme.db.example.com` is that of `acme` where `db.example.com` is the
//! tenants' domain. Pure.

use insula_domain::Slug;

/// What the host name of a connection says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// Nothing: there is none, or it is not below the tenants' domain.
    Plain,
    /// It is of a tenant, or could be.
    OfTenant {
        /// As the client gave it, in small letters.
        name: Box<str>,
        /// The tenant's; `None` where no tenant can have this name.
        slug: Option<Slug>,
    },
}

impl Host {
    /// Reads a host name, in small letters, with the domain of the tenants.
    pub fn named(name: Option<&str>, domain: Option<&str>) -> Self {
        let below = |name: &str, domain: &str| {
            let label = name.strip_suffix(domain)?.strip_suffix('.')?;
            Some(Self::OfTenant { name: name.into(), slug: label.parse().ok() })
        };
        let both = name.map(|name| name.strip_suffix('.').unwrap_or(name)).zip(domain);
        both.and_then(|(name, domain)| below(name, domain)).unwrap_or(Self::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: Option<&str> = Some("db.example.com");

    #[test]
    fn a_label_below_the_domain_is_a_tenants() {
        for name in ["acme.db.example.com", "acme.db.example.com."] {
            let Host::OfTenant { slug, .. } = Host::named(Some(name), DOMAIN) else { panic!("{name}") };
            assert_eq!(slug, Some("acme".parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn what_is_below_the_domain_and_of_no_tenant_is_not_taken_for_a_plain_name() {
        for name in ["a.acme.db.example.com", "www.db.example.com", "-.db.example.com", ".db.example.com"] {
            let found = Host::named(Some(name), DOMAIN);
            assert!(matches!(found, Host::OfTenant { slug: None, .. }), "{name}: {found:?}");
        }
    }

    #[test]
    fn all_other_names_are_plain() {
        for name in
            ["localhost", "db.example.com", "example.com", "acmedb.example.com", "acme.example.com", ""]
        {
            assert_eq!(Host::named(Some(name), DOMAIN), Host::Plain, "{name}");
        }
        assert_eq!(Host::named(None, DOMAIN), Host::Plain);
        assert_eq!(Host::named(Some("acme.db.example.com"), None), Host::Plain);
    }
}
