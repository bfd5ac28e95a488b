//! TLS to backends and certificates of clients: what a route says of them, with the authorities and certificates that it names.
//!
//! It never knows connections. `references` asks it of backends, `build` and `layer4` of clients, `lookup` which objects it needs.

use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::{grants::Target, index::service_port, lookup::Known, references::Context, status::Problem};
use crate::{
    api::{self, BackendTlsMode, ObjectName, Reason, WsRouteSpec},
    model::{
        PoolKey,
        tls::{Application, Authorities, BackendTls, ClientAuth, ClientAuthMode, Trust},
    },
};

/// The key of a Secret or ConfigMap that holds authorities.
pub(super) const CA: &str = "ca.crt";

/// Where authorities are.
#[derive(Clone, Copy)]
enum Source<'a> {
    Secret(&'a ObjectName),
    ConfigMap(&'a ObjectName),
}

impl<'a> Source<'a> {
    fn of(secret: Option<&'a ObjectName>, config_map: Option<&'a ObjectName>) -> Result<Option<Self>, Problem> {
        match (secret, config_map) {
            (Some(_), Some(_)) => Err(Problem::invalid("at most one of caSecret and caConfigMap may be given")),
            (Some(name), None) => Ok(Some(Source::Secret(name))),
            (None, Some(name)) => Ok(Some(Source::ConfigMap(name))),
            (None, None) => Ok(None),
        }
    }
}

/// The Secrets and the ConfigMaps that the TLS fields of a route name, but for its own certificates.
pub(super) fn named(spec: &WsRouteSpec) -> (Vec<&ObjectName>, Vec<&ObjectName>) {
    let of_locations = spec.locations.iter().flatten().flat_map(|location| location.backends.iter().flatten());
    let of_ports = spec.tcp.iter().flatten().flat_map(|tcp| &tcp.backends);
    let backends = of_locations.chain(of_ports).filter_map(|backend| backend.tls.as_ref());
    let of_hosts = spec.tls.iter().filter_map(|tls| tls.client_auth.as_ref());
    let clients = of_hosts.chain(spec.tcp.iter().flatten().filter_map(|tcp| tcp.tls.as_ref()?.client_auth.as_ref()));
    let (mut secrets, mut config_maps) = (Vec::new(), Vec::new());
    for tls in backends {
        secrets.extend(tls.ca_secret.iter().chain(&tls.client_secret));
        config_maps.extend(&tls.ca_config_map);
    }
    for auth in clients {
        secrets.extend(&auth.ca_secret);
        config_maps.extend(&auth.ca_config_map);
    }
    (secrets, config_maps)
}

impl Context<'_> {
    /// TLS to a backend: as the route says; else, for HTTP, as the Service's `appProtocol` says.
    pub(super) fn backend_tls(
        &self,
        namespace: &str,
        backend: &api::Backend,
        pool: &PoolKey,
        application: Application,
    ) -> Result<Option<Arc<BackendTls>>, Problem> {
        let by_protocol = api::BackendTls::default();
        let spec = match &backend.tls {
            Some(spec) => spec,
            None if application == Application::Http && self.app_protocol_is_tls(pool)? => &by_protocol,
            None => return Ok(None),
        };
        let authorities = Source::of(spec.ca_secret.as_ref(), spec.ca_config_map.as_ref())?;
        let trust = match (spec.mode.unwrap_or(BackendTlsMode::Verify), authorities) {
            (BackendTlsMode::Verify, Some(source)) => Trust::Authorities(self.authorities(namespace, source)?),
            (BackendTlsMode::Verify, None) => Trust::System,
            (BackendTlsMode::Insecure, None) => Trust::Anything,
            (BackendTlsMode::Insecure, Some(_)) => {
                return Err(Problem::invalid("backends[].tls.mode Insecure verifies nothing: leave caSecret and caConfigMap out"));
            }
        };
        let server_name = match &spec.server_name {
            Some(name) => server_name(name)?,
            None => server_name(&default_name(pool))?,
        };
        let client = spec.client_secret.as_ref().map(|name| {
            let name = self.named(namespace, name.namespace.as_deref(), &name.name, Target::Secret)?;
            self.certificate(&name).cloned()
        });
        Ok(Some(Arc::new(BackendTls { server_name, trust, client: client.transpose()?, application })))
    }

    /// What is asked of clients' certificates. Where the authorities can't be had, no certificate will do, and the problem says why.
    pub(super) fn client_auth(&self, namespace: &str, spec: &api::ClientAuth) -> (Arc<ClientAuth>, Option<Problem>) {
        let source = Source::of(spec.ca_secret.as_ref(), spec.ca_config_map.as_ref())
            .and_then(|source| source.ok_or_else(|| Problem::invalid("clientAuth needs exactly one of caSecret and caConfigMap")));
        let (authorities, problem) = match source.and_then(|source| self.authorities(namespace, source)) {
            Ok(authorities) => (Some(authorities), None),
            Err(problem) => (None, Some(problem)),
        };
        let mode = match spec.mode.unwrap_or(api::ClientAuthMode::Require) {
            api::ClientAuthMode::Require => ClientAuthMode::Require,
            api::ClientAuthMode::Optional => ClientAuthMode::Optional,
        };
        (Arc::new(ClientAuth { authorities, mode }), problem)
    }

    fn authorities(&self, namespace: &str, source: Source<'_>) -> Result<Arc<Authorities>, Problem> {
        let (name, target) = match source {
            Source::Secret(name) => (name, Target::Secret),
            Source::ConfigMap(name) => (name, Target::ConfigMap),
        };
        let name = self.named(namespace, name.namespace.as_deref(), &name.name, target)?;
        let (known, missing) = match target {
            Target::ConfigMap => (self.index.authorities_of_config_map(&name, self.options.lookup), Reason::ConfigMapNotFound),
            _ => (self.index.authorities_of_secret(&name, self.options.lookup), Reason::SecretNotFound),
        };
        let what = target.to_string().to_lowercase();
        match known {
            Known::There(authorities) => authorities.clone(),
            Known::Absent => {
                Err(Problem::new(missing, format!("{what} {name} does not exist: create it with the certificate authorities in {CA}")))
            }
            Known::Unanswered => Err(Problem::pending(format!("{what} {name}"))),
        }
    }

    /// Whether the Service says that its port speaks TLS (KEP-3726 and the IANA name).
    fn app_protocol_is_tls(&self, pool: &PoolKey) -> Result<bool, Problem> {
        let PoolKey::Service { service: name, port } = pool else { return Ok(false) };
        let port = self.index.service(name).and_then(|service| service_port(service, port));
        match port.and_then(|port| port.app_protocol.as_deref()) {
            Some("https" | "kubernetes.io/wss") => Ok(true),
            Some("kubernetes.io/h2c") => {
                let message = format!(
                    "service {name} has appProtocol kubernetes.io/h2c, and only HTTP/1.1 is spoken to backends: \
                     name a port that speaks it, or change appProtocol"
                );
                Err(Problem::new(Reason::UnsupportedProtocol, message))
            }
            _ => Ok(false),
        }
    }
}

/// What the certificate of a backend is made out for, if the route does not say: the Service's DNS name, or the host of an address.
fn default_name(pool: &PoolKey) -> String {
    match pool {
        PoolKey::Service { service, .. } => format!("{}.{}.svc", service.name, service.namespace),
        PoolKey::Address(address) => {
            let host = address.rsplit_once(':').map_or(&**address, |(host, _)| host);
            host.trim_start_matches('[').trim_end_matches(']').to_owned()
        }
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, Problem> {
    let invalid = |_| Problem::invalid(format!("backends[].tls.serverName {name} is neither a host name nor an address"));
    ServerName::try_from(name.to_owned()).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectRef;

    #[test]
    fn the_name_of_a_backend_is_its_services_or_its_hosts() {
        let service = PoolKey::Service { service: ObjectRef::new("shop", "chat"), port: "ws".into() };
        assert_eq!(default_name(&service), "chat.shop.svc");
        assert_eq!(default_name(&PoolKey::Address("chat.example.com:443".into())), "chat.example.com");
        assert_eq!(default_name(&PoolKey::Address("[2001:db8::1]:443".into())), "2001:db8::1");
        assert!(matches!(server_name("2001:db8::1"), Ok(ServerName::IpAddress(_))));
        assert!(server_name("not a name").is_err());
    }
}
