//! Manifests as tests write them: short, one object a function, joined by [`all`].

use std::net::SocketAddr;

/// Joins documents.
pub fn all<T: AsRef<str>>(documents: impl IntoIterator<Item = T>) -> String {
    documents.into_iter().map(|document| document.as_ref().to_owned()).collect::<Vec<_>>().join("\n---\n")
}

/// A Service `name` with one port, 80, called `web`, and its ready endpoints.
pub fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    let head = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: web, port: 80}}]}}");
    let slices = endpoints.iter().enumerate().map(|(i, at)| slice(name, i, *at, "ready: true"));
    all(std::iter::once(head).chain(slices))
}

/// One EndpointSlice with one endpoint and these conditions, such as `ready: false, serving: true, terminating: true`.
pub fn slice(service: &str, number: usize, endpoint: SocketAddr, conditions: &str) -> String {
    let family = if endpoint.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-{number}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: {family}\nports: [{{name: web, port: {}}}]\nendpoints: [{{addresses: [\"{}\"], conditions: {{{conditions}}}}}]",
        endpoint.port(),
        endpoint.ip()
    )
}

/// A WsRoute with this spec, indented by two.
pub fn route(name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: carrick.dev/v1alpha1\nkind: WsRoute\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

/// A Service and a WsRoute that sends everything below `path` to it.
pub fn site(name: &str, path: &str, endpoints: &[SocketAddr]) -> String {
    all([service(name, endpoints), route(name, &format!("locations:\n- {{path: {path}, backends: [{{service: {name}, port: 80}}]}}"))])
}

/// A Secret of type kubernetes.io/tls.
pub fn tls_secret(name: &str, certificate_pem: &str, key_pem: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\ndata: {{tls.crt: {}, tls.key: {}}}",
        BASE64_STANDARD.encode(certificate_pem),
        BASE64_STANDARD.encode(key_pem)
    )
}
