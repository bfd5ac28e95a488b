//! What a WsRoute names, looked up: Services and their ports, addresses, ConfigMaps, Secrets.
//!
//! It never knows endpoints. `location` and `layer4` call it; its messages name the object and what is there instead.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Index, Options,
    grants::{self, Target},
    index::service_port,
    lookup::Known,
    objects::{ServicePort, ServiceSpec},
    pools, secret,
    status::Problem,
    values,
};
use crate::{
    api::{self, IntOrString, Reason},
    model::{
        Cert, ObjectRef, PoolKey,
        route::{Backend, StaticFile},
        tls::Application,
    },
};

/// Everything that a reference may lead to.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) index: &'a Index,
    pub(super) options: &'a Options,
}

impl Context<'_> {
    /// The pools of some backends, and what is wrong with the others.
    pub(super) fn backends(&self, namespace: &str, backends: &[api::Backend], application: Application) -> (Vec<Backend>, Vec<Problem>) {
        let mut resolved: Vec<Backend> = Vec::with_capacity(backends.len());
        let mut problems = Vec::new();
        for backend in backends {
            match self.backend(namespace, backend, application) {
                Ok(backend) => match resolved.iter_mut().find(|known| known.pool == backend.pool) {
                    Some(known) if known.tls == backend.tls => known.weight += backend.weight,
                    Some(_) => problems.push(Problem::invalid(format!("backend {} is named twice, with different tls", backend.pool))),
                    None => resolved.push(backend),
                },
                Err(problem) => problems.push(problem),
            }
        }
        (resolved, problems)
    }

    fn backend(&self, namespace: &str, backend: &api::Backend, application: Application) -> Result<Backend, Problem> {
        let pool = self.pool(namespace, backend)?;
        let tls = self.backend_tls(namespace, backend, &pool, application)?;
        Ok(Backend { pool, weight: backend.weight.unwrap_or(1), tls })
    }

    fn pool(&self, namespace: &str, backend: &api::Backend) -> Result<PoolKey, Problem> {
        match (&backend.service, &backend.address) {
            (Some(service), None) => {
                let port =
                    backend.port.as_ref().ok_or_else(|| Problem::invalid(format!("backend {service} needs port: a number or a name")))?;
                let port = self::port(port);
                let service = self.named(namespace, backend.namespace.as_deref(), service, Target::Service)?;
                self.service_port_exists(&service, &port)?;
                Ok(PoolKey::Service { service, port })
            }
            (None, Some(address)) => {
                if backend.port.is_some() || backend.namespace.is_some() {
                    return Err(Problem::invalid(format!("backend {address} takes neither port nor namespace: both belong to service")));
                }
                let address = values::address(address).map_err(|wrong| Problem::invalid(format!("address {wrong}")))?;
                if !self.options.allow_addresses {
                    let message = format!("backend {address} is an address: start with --allow-addresses, or name a Service");
                    return Err(Problem::new(Reason::AddressNotAllowed, message));
                }
                Ok(PoolKey::Address(address))
            }
            _ => Err(Problem::invalid("a backend takes exactly one of service and address")),
        }
    }

    /// The pools of those backends that are in another namespace, which does not permit them.
    pub(super) fn refused(&self, namespace: &str, backends: &[api::Backend]) -> Vec<PoolKey> {
        let refused = |backend: &api::Backend| {
            let service = ObjectRef::new(backend.namespace.as_deref()?, backend.service.as_deref()?);
            grants::permitted(self.index, namespace, Target::Service, &service).err()?;
            Some(PoolKey::Service { service, port: port(backend.port.as_ref()?) })
        };
        backends.iter().filter_map(refused).collect()
    }

    fn service_port_exists(&self, name: &ObjectRef, port: &str) -> Result<(), Problem> {
        if pools::overridden(self.index, self.options, name, port).is_some() {
            return Ok(());
        }
        let missing = || Problem::new(Reason::ServiceNotFound, format!("service {name} does not exist: create it, or name another"));
        let service = self.index.service(name).ok_or_else(missing)?;
        if service.type_.as_deref() == Some("ExternalName") {
            let message = format!("service {name} is of type ExternalName and has no endpoints: use backends[].address");
            return Err(Problem::new(Reason::ServiceNotFound, message));
        }
        match service_port(service, port) {
            Some(_) => Ok(()),
            None => Err(Problem::new(Reason::PortNotFound, port_not_found(name, service, port))),
        }
    }

    /// The files of a ConfigMap by their path below the location.
    pub(super) fn files(&self, namespace: &str, reference: &api::ConfigMapFiles) -> Result<Arc<BTreeMap<Arc<str>, StaticFile>>, Problem> {
        let path = |item: &api::ConfigMapItem| {
            let path = values::file(&item.path).map_err(|wrong| Problem::invalid(format!("static.configMap.items path {wrong}")))?;
            Ok((item.key.clone(), path))
        };
        let items = reference.items.as_ref().map(|items| items.iter().map(path).collect::<Result<Vec<_>, _>>()).transpose()?;
        let name = self.config_map(namespace, reference)?;
        let files = match self.index.files(&name, self.options.lookup) {
            Known::There(files) => files.clone()?,
            Known::Absent => {
                return Err(Problem::new(
                    Reason::ConfigMapNotFound,
                    format!("configmap {name} does not exist: create it, or name another"),
                ));
            }
            Known::Unanswered => return Err(Problem::pending(format!("configmap {name}"))),
        };
        let Some(items) = items else { return Ok(files) };
        let mut picked = BTreeMap::new();
        for (key, path) in items {
            let Some(file) = files.get(key.as_str()) else {
                let keys: Vec<&str> = files.keys().map(|key| &**key).collect();
                let message = format!("configmap {name} has no key {key} (it has: {})", listed(&keys));
                return Err(Problem::new(Reason::ConfigMapNotFound, message));
            };
            picked.insert(path, file.clone());
        }
        Ok(Arc::new(picked))
    }

    /// The Secrets of certificates, be they there or not, and what is wrong with them.
    pub(super) fn certificates(&self, namespace: &str, references: &[api::CertificateRef]) -> (Vec<ObjectRef>, Vec<Problem>) {
        let mut named = Vec::with_capacity(references.len());
        let mut problems = Vec::new();
        for reference in references {
            match self.secret(namespace, reference) {
                Ok(name) => {
                    problems.extend(self.certificate(&name).err());
                    if !named.contains(&name) {
                        named.push(name);
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        (named, problems)
    }

    /// The ConfigMap that a reference means, if it may be used.
    pub(super) fn config_map(&self, namespace: &str, reference: &api::ConfigMapFiles) -> Result<ObjectRef, Problem> {
        self.named(namespace, reference.namespace.as_deref(), &reference.name, Target::ConfigMap)
    }

    /// The Secret that a reference means, if it may be used.
    pub(super) fn secret(&self, namespace: &str, reference: &api::CertificateRef) -> Result<ObjectRef, Problem> {
        self.named(namespace, reference.namespace.as_deref(), &reference.secret_name, Target::Secret)
    }

    /// Nothing is looked at before it is permitted: whether an object is there is no business of other namespaces.
    pub(super) fn named(&self, namespace: &str, other: Option<&str>, name: &str, target: Target) -> Result<ObjectRef, Problem> {
        let object = ObjectRef::new(other.unwrap_or(namespace), name);
        grants::permitted(self.index, namespace, target, &object).map(|()| object)
    }

    /// The certificate with its key that a Secret holds.
    pub(super) fn certificate(&self, name: &ObjectRef) -> Result<&Arc<Cert>, Problem> {
        match self.index.cert(name, self.options.lookup) {
            Known::There(cert) => cert.as_ref().map_err(Problem::clone),
            Known::Absent => {
                let message = format!("secret {name} does not exist: create it with type {}", secret::TLS_TYPE);
                Err(Problem::new(Reason::SecretNotFound, message))
            }
            Known::Unanswered => Err(Problem::pending(format!("secret {name}"))),
        }
    }
}

/// Number or name, as the WsRoute spells it.
fn port(port: &IntOrString) -> Arc<str> {
    match port {
        IntOrString::Int(number) => number.to_string().into(),
        IntOrString::String(name) => name.as_str().into(),
    }
}

fn port_not_found(name: &ObjectRef, service: &ServiceSpec, port: &str) -> String {
    let wanted = if port.parse::<u16>().is_ok() { format!("no port {port}") } else { format!("no port named {port}") };
    let by_number = port.parse::<u16>().is_ok();
    let spell = |known: &ServicePort| match &known.name {
        Some(name) if !by_number => name.clone(),
        _ => known.port.to_string(),
    };
    let known: Vec<String> = service.ports.iter().map(spell).collect();
    format!("service {name} has {wanted} (it has: {})", listed(&known.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
