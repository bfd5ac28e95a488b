//! The objects, and what happened to them since: writes with their conflicts, lists by pages, the log that watches read.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    fields::{self, Owners},
    kind::Kind,
    select::Selection,
};

/// Namespace and name; the namespace is empty for kinds of the cluster.
pub type Name = (String, String);

/// All there is. Every write makes a new revision, the resourceVersion of what it wrote.
#[derive(Default)]
pub struct Store {
    pub revision: u64,
    /// What happened up to here is forgotten.
    pub forgotten: u64,
    objects: BTreeMap<(&'static str, Name), Object>,
    pub log: Vec<Happening>,
    uids: u64,
}

struct Object {
    value: Arc<Value>,
    owners: Owners,
}

/// One line of the log.
pub struct Happening {
    pub revision: u64,
    pub plural: &'static str,
    pub before: Option<Arc<Value>>,
    pub after: Option<Arc<Value>>,
}

/// Which part of an object a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All but its status, where that is written apart.
    Main,
    /// Its status.
    Status,
    /// All of it: how a test, which is nobody's client, writes.
    Whole,
}

/// How an object is written.
#[derive(Debug)]
pub enum Write {
    Create,
    Replace,
    /// RFC 7396.
    Merge,
    /// Server-side apply.
    Apply {
        manager: String,
        force: bool,
    },
    /// Creates or replaces, whatever the resourceVersion.
    Put,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            422 => "Invalid",
            429 => "TooManyRequests",
            500 => "InternalError",
            _ => "ServiceUnavailable",
        };
        Self { code, reason, message: message.into() }
    }

    fn not_found(kind: &Kind, name: &Name) -> Self {
        Self::new(404, format!("{} {:?} not found", kind.plural, name.1))
    }

    fn conflict(kind: &Kind, name: &Name, why: &str) -> Self {
        Self::new(409, format!("Operation cannot be fulfilled on {} {:?}: {why}", kind.plural, name.1))
    }
}

impl Store {
    pub fn get(&self, kind: &'static Kind, name: &Name) -> Result<Arc<Value>, Refusal> {
        let object = self.objects.get(&(kind.plural, name.clone()));
        object.map(|object| Arc::clone(&object.value)).ok_or_else(|| Refusal::not_found(kind, name))
    }

    /// The objects of a selection after a name, at most `limit` of them, and whether there are more.
    pub fn list(&self, selection: &Selection, after: Option<Name>, limit: usize) -> (Vec<Arc<Value>>, bool) {
        let start = after.map_or((selection.plural, Name::default()), |name| (selection.plural, name));
        let mut taken = self
            .objects
            .range((Excluded(start), Unbounded))
            .take_while(|((plural, _), _)| *plural == selection.plural)
            .map(|(_, object)| &object.value)
            .filter(|value| selection.takes(value));
        let page = taken.by_ref().take(limit).cloned().collect();
        (page, taken.next().is_some())
    }

    /// Writes an object and gives it back, and whether it is new.
    pub fn write(&mut self, kind: &'static Kind, name: Name, part: Part, how: &Write, sent: &Value) -> Result<(Arc<Value>, bool), Refusal> {
        let before = self.objects.get(&(kind.plural, name.clone())).map(|object| Arc::clone(&object.value));
        let mut owners = self.objects.get(&(kind.plural, name.clone())).map(|object| object.owners.clone()).unwrap_or_default();
        check_preconditions(kind, &name, sent, before.as_deref())?;
        let value = match (how, &before) {
            (Write::Create, Some(_)) => {
                return Err(Refusal { reason: "AlreadyExists", ..Refusal::conflict(kind, &name, "it already exists") });
            }
            (Write::Replace | Write::Merge, None) => return Err(Refusal::not_found(kind, &name)),
            (Write::Apply { .. }, None) if part == Part::Status => return Err(Refusal::not_found(kind, &name)),
            (Write::Create | Write::Put, None) => kept_parts(kind, part, sent.clone(), None),
            (Write::Replace | Write::Put, Some(before)) => {
                let value = kept_parts(kind, part, sent.clone(), Some(before));
                fields::disown_changed(&mut owners, before, &value);
                value
            }
            (Write::Merge, Some(before)) => {
                let mut merged = (**before).clone();
                merge(&mut merged, sent);
                let value = kept_parts(kind, part, merged, Some(before));
                fields::disown_changed(&mut owners, before, &value);
                value
            }
            (Write::Apply { manager, force }, _) => {
                let manager = if part == Part::Status { format!("{manager}/status") } else { manager.clone() };
                let mut value = before.as_deref().cloned().unwrap_or_else(|| json!({"metadata": {}}));
                let sent = kept_parts(kind, part, sent.clone(), None);
                fields::apply(&mut value, &mut owners, &manager, &sent, *force).map_err(|why| Refusal::new(409, why))?;
                value
            }
        };
        let value = self.identified(kind, &name, value, before.as_deref());
        let is_new = before.is_none();
        if before.as_deref() == Some(&value) {
            let same = Arc::new(value);
            self.objects.insert((kind.plural, name), Object { value: Arc::clone(&same), owners });
            return Ok((same, is_new));
        }
        let after = self.log(kind, before, value, true);
        self.objects.insert((kind.plural, name), Object { value: Arc::clone(&after), owners });
        Ok((after, is_new))
    }

    /// Takes an object away, if it is still the one that the preconditions mean.
    pub fn delete(&mut self, kind: &'static Kind, name: &Name, options: &Value) -> Result<Arc<Value>, Refusal> {
        let before = self.get(kind, name)?;
        check_preconditions(kind, name, &json!({"metadata": options["preconditions"]}), Some(&before))?;
        self.objects.remove(&(kind.plural, name.clone()));
        Ok(self.log(kind, Some(Arc::clone(&before)), (*before).clone(), false))
    }

    /// Forgets what happened: watches and pages from before now are 410 Gone.
    pub fn forget(&mut self) {
        self.revision += 1;
        self.forgotten = self.revision;
        self.log.clear();
    }

    fn log(&mut self, kind: &'static Kind, before: Option<Arc<Value>>, mut value: Value, is_there: bool) -> Arc<Value> {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let value = Arc::new(value);
        let (before, after) = if is_there { (before, Some(Arc::clone(&value))) } else { (Some(Arc::clone(&value)), None) };
        self.log.push(Happening { revision: self.revision, plural: kind.plural, before, after });
        value
    }

    /// What the server itself sets in metadata.
    fn identified(&mut self, kind: &Kind, name: &Name, mut value: Value, before: Option<&Value>) -> Value {
        value["apiVersion"] = kind.api_version().into();
        value["kind"] = kind.kind.into();
        let given = value["metadata"].take();
        let mut metadata = given.as_object().cloned().unwrap_or_default();
        metadata.insert("name".into(), name.1.clone().into());
        if kind.namespaced {
            metadata.insert("namespace".into(), name.0.clone().into());
        }
        for own in ["uid", "resourceVersion", "generation"] {
            metadata.remove(own);
        }
        match before {
            Some(before) => {
                for own in ["uid", "resourceVersion", "creationTimestamp"] {
                    metadata.insert(own.into(), before["metadata"][own].clone());
                }
            }
            None => {
                self.uids += 1;
                metadata.insert("uid".into(), format!("00000000-0000-4000-8000-{:012}", self.uids).into());
                let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                metadata.entry("creationTimestamp").or_insert(now.into());
            }
        }
        if kind.has_generation {
            let last = before.and_then(|before| before["metadata"]["generation"].as_i64()).unwrap_or_default();
            let changed = before.is_none_or(|before| before["spec"] != value["spec"]);
            metadata.insert("generation".into(), (last + i64::from(changed)).into());
        }
        value["metadata"] = metadata.into();
        value
    }
}

/// What is sent, with those parts as they were that such a request does not touch.
fn kept_parts(kind: &Kind, part: Part, mut sent: Value, before: Option<&Value>) -> Value {
    let none = Value::Null;
    let before_or_none = |part: &str| before.unwrap_or(&none)[part].clone();
    match part {
        Part::Main if kind.has_status => sent["status"] = before_or_none("status"),
        Part::Whole if sent["status"].is_null() => sent["status"] = before_or_none("status"),
        Part::Status => {
            let status = sent["status"].take();
            let metadata = sent["metadata"].take();
            sent = before.cloned().unwrap_or_else(|| json!({"metadata": metadata}));
            sent["status"] = status;
        }
        _ => {}
    }
    if let Some(map) = sent.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    sent
}

/// A uid or a resourceVersion that is sent must still be the object's.
fn check_preconditions(kind: &Kind, name: &Name, sent: &Value, before: Option<&Value>) -> Result<(), Refusal> {
    for (field, why) in [("uid", "the uid is another one"), ("resourceVersion", "the object has been modified")] {
        let wanted = sent["metadata"][field].as_str().filter(|wanted| !wanted.is_empty());
        let Some(wanted) = wanted else { continue };
        match before {
            Some(before) if before["metadata"][field] == wanted => {}
            Some(_) => return Err(Refusal::conflict(kind, name, why)),
            None => return Err(Refusal::not_found(kind, name)),
        }
    }
    Ok(())
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) => {
            if !target.is_object() {
                *target = json!({});
            }
            for (name, value) in patch {
                if value.is_null() {
                    target.as_object_mut().expect("just made one").remove(name);
                } else {
                    merge(&mut target[name.as_str()], value);
                }
            }
        }
        value => *target = value.clone(),
    }
}
