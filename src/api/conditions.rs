//! Conditions and their reasons, as `status` spells them.
//!
//! It knows the words and no clock: who writes a status sets `lastTransitionTime`. `translate` makes conditions, `k8s::status` writes them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One aspect of a WsRoute's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Accepted, ResolvedRefs, Programmed, Conflicted or Ready.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 316))]
    pub type_: String,
    /// True, False or Unknown.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// The metadata.generation that this condition was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// When status last changed, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: Option<String>,
    /// The cause in one CamelCase word.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// The cause in words, and what to do.
    #[schemars(length(max = 32768))]
    pub message: String,
}

impl Condition {
    /// A condition without times and generation.
    pub fn new(type_: ConditionType, status: Status, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            type_: type_.to_string(),
            status: status.to_string(),
            observed_generation: None,
            last_transition_time: None,
            reason: reason.to_string(),
            message: message.into(),
        }
    }
}

/// The conditions a WsRoute has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionType {
    /// The object is valid and may have what it claims.
    Accepted,
    /// Everything it names exists, is what it must be, and may be used.
    ResolvedRefs,
    /// The leader's data plane serves this generation.
    Programmed,
    /// True only beside a serving rest: some of it is another route's already.
    Conflicted,
    /// Accepted and ResolvedRefs and Programmed: what Helm, Flux and Argo CD wait for.
    Ready,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody has looked yet.
    Unknown,
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing stands against it.
    Accepted,
    /// Something in it cannot be: the message names the field.
    Invalid,
    /// A host belongs to another namespace, which delegates nothing here.
    HostNotAllowed,
    /// A TCP port belongs to another route, or is none of `--tcp-ports`.
    PortNotAllowed,
    /// A listener of that name does not exist.
    ListenerNotFound,
    /// Every reference resolves.
    ResolvedRefs,
    /// No such Service.
    ServiceNotFound,
    /// The Service has no such port.
    PortNotFound,
    /// No such Secret.
    SecretNotFound,
    /// The Secret is not of the type needed.
    SecretWrongType,
    /// The Secret holds no usable certificate and key.
    InvalidCertificate,
    /// No such ConfigMap.
    ConfigMapNotFound,
    /// Another namespace does not grant the reference.
    RefNotPermitted,
    /// The Service's port speaks what is not spoken to backends.
    UnsupportedProtocol,
    /// `address` needs `--allow-addresses`.
    AddressNotAllowed,
    /// The data plane serves it.
    Programmed,
    /// The data plane does not serve this generation yet.
    Pending,
    /// Another route was first.
    Conflicted,
    /// Nothing of it is another route's.
    NoConflicts,
    /// Accepted, ResolvedRefs and Programmed hold.
    Ready,
    /// One of Accepted, ResolvedRefs and Programmed does not hold.
    NotReady,
}

/// The names of the variants are the words of the API.
macro_rules! display_as_debug {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    )*};
}
display_as_debug!(ConditionType, Status, Reason);
