//! Finds files among those that a ConfigMap holds.
//!
//! It never waits. `mod` calls it; the rules are those of `disk`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    coding::Codings,
    condition::Validators,
    disk::{Content, File, Found},
    name::{Asked, Wanted},
};
use crate::model::route::StaticFile;

type Files = BTreeMap<Arc<str>, StaticFile>;

/// What is wanted, among `files`.
pub(super) fn find(files: &Files, wanted: &Wanted, codings: &Codings) -> Found {
    if let Some(file) = choose(files, &wanted.name, codings) {
        return Found::File(file);
    }
    if wanted.asked == Asked::File && is_folder(files, &wanted.name) {
        return Found::Folder;
    }
    let fallback = wanted.fallback.as_ref().and_then(|name| choose(files, name, codings));
    fallback.map_or(Found::Nothing, |file| Found::File(File { is_fallback: true, ..file }))
}

fn choose(files: &Files, name: &[u8], codings: &Codings) -> Option<File> {
    let name = std::str::from_utf8(name).ok()?;
    let plain = files.get(name)?;
    let sibling = |coding: &super::coding::Coding| Some((files.get(&*format!("{name}{}", coding.suffix()))?, Some(*coding)));
    let (StaticFile(bytes), coding) = codings.iter().find_map(sibling).unwrap_or((plain, None));
    // The same on every replica and after a restart: from the content alone. It is the owner's own, so nobody gains by a collision.
    let etag = format!("\"{:016x}-{:x}\"", rapidhash::v3::rapidhash_v3(bytes), bytes.len());
    Some(File {
        content: Content::Memory(bytes.clone()),
        len: bytes.len() as u64,
        validators: Validators { etag, modified: None },
        coding,
        is_fallback: false,
    })
}

fn is_folder(files: &Files, name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let prefix: Arc<str> = format!("{name}/").into();
    files.range(prefix.clone()..).next().is_some_and(|(path, _)| path.starts_with(&*prefix))
}
