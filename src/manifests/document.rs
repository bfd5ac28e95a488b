//! A file's text -> its documents -> its objects, each with the line it begins at.
//!
//! It never knows other files or what stood there before. `folder` calls it.

use std::path::Path;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::objects::{Key, Object, kind_of};
use crate::{
    api::{self, FaultKind},
    translate::{Kind, objects::Metadata},
};

/// What one document, or one item of a List, came to.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) line: usize,
    /// Which object it is, as far as that can be told.
    pub(super) key: Option<Key>,
    pub(super) object: Outcome,
    /// Lines with what is wrong or ignored.
    pub(super) faults: Vec<(usize, String)>,
}

/// What a document is good for.
#[derive(Debug)]
pub(super) enum Outcome {
    /// An object.
    Good(Object),
    /// A part of it: the rest is wrong.
    Part(Object),
    /// It can't be read.
    Bad,
    /// Nothing of ours.
    Skipped,
}

/// What every object begins with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Option<Metadata>,
}

/// `v1.List`.
#[derive(Deserialize)]
struct List {
    items: Option<Vec<Spanned<Value>>>,
}

/// All documents of a file.
pub(super) fn parse(text: &str, file: &Path) -> Vec<Document> {
    if file.extension().is_some_and(|extension| extension == "json") {
        return one(text, 1, Syntax::Json);
    }
    split(text).into_iter().flat_map(|(line, document)| one(&document, line, Syntax::Yaml)).collect()
}

#[derive(Clone, Copy)]
enum Syntax {
    Yaml,
    Json,
}

impl Syntax {
    fn read<T: DeserializeOwned>(self, text: &str) -> Result<T, (usize, String)> {
        match self {
            Syntax::Yaml => serde_saphyr::from_str(text).map_err(|error| {
                let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
                (line, one_line(&error.without_snippet().to_string()))
            }),
            Syntax::Json => serde_json::from_str(text).map_err(|error| (error.line(), one_line(&error.to_string()))),
        }
    }
}

/// On one line, and without the place, which is that in the document: the fault has the one in the file.
fn one_line(message: &str) -> String {
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    message.rfind(" at line ").map_or(message.as_str(), |place| &message[..place]).to_owned()
}

/// Documents with the line each begins at. Split by hand, so that one that does not parse harms no other.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(1, String::new())];
    for (number, line) in text.lines().enumerate() {
        let rest = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if let Some(rest) = rest {
            documents.push((number + 1, String::new()));
            push_line(&mut documents, &format!("   {rest}"));
        } else if line.trim_end() == "..." {
            documents.push((number + 2, String::new()));
        } else {
            push_line(&mut documents, line);
        }
    }
    let says_something = |line: &str| !matches!(line.trim_start().chars().next(), None | Some('#' | '%'));
    documents.retain(|(_, document)| document.lines().any(says_something));
    documents
}

fn push_line(documents: &mut [(usize, String)], line: &str) {
    if let Some((_, document)) = documents.last_mut() {
        document.push_str(line);
        document.push('\n');
    }
}

/// One document: an object, or a List of them.
fn one(text: &str, first_line: usize, syntax: Syntax) -> Vec<Document> {
    let at = |line: usize| first_line + line.saturating_sub(1);
    let bad = |(line, reason): (usize, String)| {
        vec![Document { line: first_line, key: None, object: Outcome::Bad, faults: vec![(at(line), reason)] }]
    };
    let header: Header = match syntax.read(text) {
        Ok(header) => header,
        Err(error) => return bad(error),
    };
    if header.kind != "List" {
        return vec![object(&header, first_line, &|line| at(line), text, syntax)];
    }
    // A line of a List's item is known for YAML only: Spanned is that parser's own.
    let items: Vec<(usize, Value)> = match syntax {
        Syntax::Yaml => match syntax.read::<List>(text) {
            Ok(list) => {
                let line = |item: &Spanned<Value>| usize::try_from(item.referenced.line()).unwrap_or(1);
                list.items.unwrap_or_default().into_iter().map(|item| (at(line(&item)), item.value)).collect()
            }
            Err(error) => return bad(error),
        },
        Syntax::Json => match syntax.read::<Value>(text) {
            Ok(list) => list["items"].as_array().into_iter().flatten().map(|item| (first_line, item.clone())).collect(),
            Err(error) => return bad(error),
        },
    };
    items.into_iter().map(|(line, item)| of_list(line, &item)).collect()
}

fn of_list(line: usize, item: &Value) -> Document {
    match serde_json::from_value::<Header>(item.clone()) {
        Ok(header) => object(&header, line, &|_| line, &item.to_string(), Syntax::Json),
        Err(error) => Document { line, key: None, object: Outcome::Bad, faults: vec![(line, error.to_string())] },
    }
}

/// The one version of our own kind that there is.
const WSROUTE_API: &str = "carrick.dev/v1alpha1";

/// One object of a kind that we know. `at` turns a line of the text into one of the file.
fn object(header: &Header, first_line: usize, at: &dyn Fn(usize) -> usize, text: &str, syntax: Syntax) -> Document {
    let group = header.api_version.split_once('/').map_or("", |(group, _)| group);
    let Some(kind) = kind_of(group, &header.kind) else {
        let reason = match header.kind.as_str() {
            "" => "an object without kind is skipped".to_owned(),
            kind => format!("kind {kind} of \"{}\" is skipped: it has no meaning here", header.api_version),
        };
        return Document { line: first_line, key: None, object: Outcome::Skipped, faults: vec![(first_line, reason)] };
    };
    let Some(metadata) = header.metadata.as_ref().filter(|metadata| !metadata.name.is_empty()) else {
        let faults = vec![(first_line, format!("{} has no metadata.name: give it one", header.kind))];
        return Document { line: first_line, key: None, object: Outcome::Bad, faults };
    };
    if kind == Kind::WsRoute && header.api_version != WSROUTE_API {
        let faults = vec![(first_line, format!("apiVersion {} of WsRoute is not known: write {WSROUTE_API}", header.api_version))];
        return Document { line: first_line, key: None, object: Outcome::Bad, faults };
    }
    let key = Key::new(kind, metadata);
    let schema = if kind == Kind::WsRoute { schema_faults(text, syntax) } else { Vec::new() };
    let (unknown, wrong): (Vec<_>, Vec<_>) = schema.into_iter().partition(|(_, fault)| fault.kind == FaultKind::UnknownField);
    let mut faults = Vec::new();
    let object = match read(kind, text, syntax) {
        Ok(object) => Outcome::Good(object),
        // The schema names every field that is wrong, the parser only the place of the first.
        Err((line, reason)) => {
            faults.extend(wrong.iter().map(|(line, fault)| (at(*line), format!("{key}: {fault}"))));
            if faults.is_empty() {
                faults.push((at(line), format!("{key}: {reason}")));
            }
            if kind == Kind::WsRoute { salvage(text, syntax).map_or(Outcome::Bad, Outcome::Part) } else { Outcome::Bad }
        }
    };
    faults.extend(unknown.iter().map(|(line, fault)| (at(*line), format!("{key}: {fault}, and is ignored"))));
    Document { line: first_line, key: Some(key), object, faults }
}

fn read(kind: Kind, text: &str, syntax: Syntax) -> Result<Object, (usize, String)> {
    Ok(match kind {
        Kind::WsRoute => Object::WsRoute(Box::new(syntax.read(text)?)),
        Kind::Service => Object::Service(syntax.read(text)?),
        Kind::EndpointSlice => Object::EndpointSlice(syntax.read(text)?),
        Kind::Secret => Object::Secret(syntax.read(text)?),
        Kind::ConfigMap => Object::ConfigMap(syntax.read(text)?),
        Kind::ReferenceGrant => Object::ReferenceGrant(syntax.read(text)?),
        Kind::IngressClass => Object::IngressClass(syntax.read(text)?),
        Kind::Namespace => Object::Namespace(syntax.read(text)?),
        Kind::Ingress => Object::Ingress(syntax.read(text)?),
    })
}

/// A WsRoute without what is wrong in its locations: such a location keeps only its path and match, and so answers 503
/// instead of letting its requests fall through to another. `None` where more than that is wrong.
fn salvage(text: &str, syntax: Syntax) -> Option<Object> {
    let mut route: Value = syntax.read(text).ok()?;
    let locations = route.pointer_mut("/spec/locations")?.as_array_mut()?;
    locations.retain_mut(|location| {
        if serde_json::from_value::<api::Location>(location.clone()).is_ok() {
            return true;
        }
        if let Some(fields) = location.as_object_mut() {
            fields.retain(|name, _| matches!(name.as_str(), "name" | "path" | "pathType" | "match"));
        }
        serde_json::from_value::<api::Location>(location.clone()).is_ok()
    });
    serde_json::from_value(route).ok().map(|route| Object::WsRoute(Box::new(route)))
}

/// What the schema of a WsRoute does not allow, each with the first line that looks like its field.
fn schema_faults(text: &str, syntax: Syntax) -> Vec<(usize, api::Fault)> {
    let Ok(route) = syntax.read::<Value>(text) else { return Vec::new() };
    let line = |name: &str| text.lines().position(|line| line.split(['"', '\'', ':', '{', ',', '-', ' ']).any(|word| word == name));
    let field = |fault: &api::Fault| fault.path.iter().rfind(|step| step.parse::<usize>().is_err()).and_then(|name| line(name));
    api::validate(&route["spec"]).into_iter().map(|fault| (field(&fault).map_or(1, |index| index + 1), fault)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Vec<Document> {
        parse(text, Path::new("a.yaml"))
    }

    fn faults(documents: &[Document]) -> Vec<(usize, &str)> {
        documents.iter().flat_map(|document| &document.faults).map(|(line, reason)| (*line, reason.as_str())).collect()
    }

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: app}\nspec: {ports: [{port: 80}]}\n";

    #[test]
    fn documents_are_split_and_comments_are_none() {
        let text = format!("# head\n---\n{SERVICE}---\n# nothing\n--- # more\n{SERVICE}...\n");
        let documents = yaml(&text);
        assert_eq!(documents.iter().map(|document| document.line).collect::<Vec<_>>(), [2, 9]);
        assert!(documents.iter().all(|document| matches!(document.object, Outcome::Good(_))));
    }

    #[test]
    fn a_document_that_does_not_parse_harms_no_other() {
        let documents = yaml(&format!("{SERVICE}---\nkind: [\n---\n{SERVICE}"));
        assert_eq!(documents.len(), 3);
        assert!(matches!(documents[1].object, Outcome::Bad));
        let faults = faults(&documents);
        assert!(matches!(faults[..], [(6..=8, _)]), "{faults:?}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_reported_with_its_line() {
        let documents = yaml("apiVersion: v1\nkind: Service\nmetadata: {name: app}\nspec:\n  ports:\n  - port: eighty\n");
        let faults = faults(&documents);
        assert_eq!(faults[0].0, 6, "{faults:?}");
        assert!(faults[0].1.starts_with("service default/app: "), "{faults:?}");
    }

    #[test]
    fn a_wrong_location_harms_only_itself() {
        let text = "apiVersion: carrick.dev/v1alpha1\nkind: WsRoute\nmetadata: {name: shop}\nspec:\n  locations:\n  - path: /a\n    backends: [{service: a, port: 80}]\n  - path: /b\n    backends: [{service: b, port: 80, weight: heavy}]\n";
        let documents = yaml(text);
        let (line, reason) = faults(&documents)[0];
        assert_eq!(line, 9);
        assert!(reason.contains("spec.locations[1].backends[0].weight"), "{reason}");
        let Outcome::Part(Object::WsRoute(route)) = &documents[0].object else { panic!("{documents:?}") };
        let locations = route.spec.locations.as_ref().unwrap();
        assert!(locations[0].backends.is_some());
        assert_eq!((locations[1].path.as_deref(), &locations[1].backends), (Some("/b"), &None));
    }

    #[test]
    fn an_unknown_field_of_a_route_is_reported() {
        let text = "apiVersion: carrick.dev/v1alpha1\nkind: WsRoute\nmetadata: {name: shop}\nspec:\n  locations:\n  - path: /a\n    timeoutz: {}\n    redirect: {host: b.example}\n";
        let documents = yaml(text);
        assert_eq!(faults(&documents), [(7, "wsroute default/shop: spec.locations[0].timeoutz is no field of a WsRoute, and is ignored")]);
        assert!(matches!(documents[0].object, Outcome::Good(_)));
    }

    #[test]
    fn lists_and_json_are_read() {
        let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", SERVICE.trim_end().replace('\n', "\n  "));
        assert!(matches!(yaml(&list)[..], [Document { line: 4, object: Outcome::Good(_), .. }]), "{:?}", yaml(&list));
        let json =
            r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "app"}}]}"#;
        assert!(matches!(parse(json, Path::new("a.json"))[..], [Document { object: Outcome::Good(_), .. }]));
    }

    #[test]
    fn an_unknown_kind_is_skipped_and_said_so() {
        let documents = yaml("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app}\n");
        assert!(matches!(documents[0].object, Outcome::Skipped));
        assert!(faults(&documents)[0].1.contains("kind Deployment of \"apps/v1\" is skipped"));
    }

    #[test]
    fn a_version_of_wsroute_that_does_not_exist_is_refused() {
        let documents = yaml("apiVersion: carrick.dev/v9\nkind: WsRoute\nmetadata: {name: shop}\nspec: {}\n");
        assert!(matches!(documents[0].object, Outcome::Bad));
        assert!(faults(&documents)[0].1.contains("write carrick.dev/v1alpha1"));
    }
}
