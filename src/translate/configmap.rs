//! A ConfigMap -> the files of a static location, and certificate authorities.
//!
//! It never knows HTTP. The Index decodes each ConfigMap once; `action` picks the files, `tls` the authorities.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    objects::{ConfigMap, Named},
    secret::{self, decode},
    status::Problem,
    tls::CA,
};
use crate::{
    api::Reason,
    model::{route::StaticFile, tls::Authorities},
};

/// The files of a ConfigMap by key, or what is wrong with it.
pub(super) type Files = Result<Arc<BTreeMap<Arc<str>, StaticFile>>, Problem>;

/// What routes may take from a ConfigMap, each with what is wrong with it.
#[derive(Debug, PartialEq)]
pub(super) struct Content {
    pub(super) files: Files,
    pub(super) authorities: Result<Arc<Authorities>, Problem>,
}

impl Content {
    /// Decodes a ConfigMap.
    pub(super) fn read(object: &ConfigMap) -> Self {
        let bundle = object.data.get(CA).ok_or_else(|| format!("has no {CA}")).and_then(|pem| secret::authorities(pem.as_bytes()));
        let wrong = |problem| Problem::new(Reason::InvalidCertificate, format!("configmap {} {problem}", object.object_ref()));
        Self { files: files(object), authorities: bundle.map(Arc::new).map_err(wrong) }
    }
}

fn files(object: &ConfigMap) -> Files {
    let text = object.data.iter().map(|(key, text)| Ok((key.as_str().into(), StaticFile(Bytes::copy_from_slice(text.as_bytes())))));
    let binary = object.binary_data.iter().map(|(key, encoded)| match decode(encoded) {
        Some(bytes) => Ok((key.as_str().into(), StaticFile(bytes.into()))),
        None => Err(Problem::invalid(format!("binaryData {key} of configmap {} is not base64", object.object_ref()))),
    });
    text.chain(binary).collect::<Result<_, _>>().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_files_alike() {
        let object = ConfigMap {
            data: BTreeMap::from([("index.html".into(), "<p>".into())]),
            binary_data: BTreeMap::from([("dot.png".into(), "AAEC".into())]),
            ..ConfigMap::default()
        };
        let files = files(&object).unwrap();
        assert_eq!(&files["index.html"].0[..], b"<p>");
        assert_eq!(&files["dot.png"].0[..], [0, 1, 2]);
    }
}
