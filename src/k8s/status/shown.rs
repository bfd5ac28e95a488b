//! A WsRoute as the API server shows it, without the spec, which nobody needs to write a status.
//!
//! It never knows what a status means. `status` follows these, and gets one as the answer to each write.

use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{
        kinds::{Resource, Watched as _},
        list_watch::Followed,
        request::View,
    },
    ledger::Seen,
};
use crate::{model::ObjectRef, translate::objects::ReadRoute};

/// The WsRoutes, watched for their statuses; a series of its own in the metrics of watches.
pub(super) const STATUSES: &Resource = &Resource { kind: "WsRouteStatus", ..*ReadRoute::RESOURCE };

/// Of an applied object.
pub(super) const API_VERSION: &str = "carrick.dev/v1alpha1";
/// Of an applied object.
pub(super) const KIND: &str = "WsRoute";

/// A WsRoute and what its status says.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) route: ObjectRef,
    pub(super) seen: Seen,
}

/// As it comes.
#[derive(Debug, Deserialize)]
pub(super) struct Wire {
    metadata: Metadata,
    #[serde(default)]
    status: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    generation: Option<i64>,
}

impl Shown {
    /// Reads one. A status that can't be read is nobody's, and is written over.
    pub(super) fn new(wire: Wire) -> Self {
        let Metadata { name, namespace, uid, resource_version, generation } = wire.metadata;
        let status = serde_json::from_value(wire.status).unwrap_or_default();
        Self { route: ObjectRef::new(namespace, name), seen: Seen { uid, version: resource_version, generation, status } }
    }
}

impl Followed for Shown {
    type Wire = Wire;
    const VIEW: View = View::Whole;

    fn read(wire: Wire) -> (Self, Option<String>) {
        let shown = Shown::new(wire);
        let version = shown.seen.version.clone();
        (shown, Some(version))
    }

    fn name(&self) -> ObjectRef {
        self.route.clone()
    }
}
