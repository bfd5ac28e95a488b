//! The lists and watches of one kind in several namespaces, told as one.
//!
//! It never asks for anything and does not know what an object is but its name. `watch` has one a kind.

use std::collections::{BTreeMap, BTreeSet};

use super::list_watch::News;
use crate::{
    model::ObjectRef,
    translate::{Event, objects::Named},
};

/// What the places of one kind have told.
pub(super) enum Merge<T> {
    /// There is one place: nothing is to be merged, and nothing kept.
    One,
    /// Some places have not been listed yet, and nothing was told.
    Waiting {
        /// The objects of each place; `None` where it was not listed.
        listed: Vec<Option<BTreeMap<ObjectRef, T>>>,
    },
    /// All were listed once: a list that comes now is told as what differs.
    Told {
        /// The names of each place.
        names: Vec<BTreeSet<ObjectRef>>,
    },
}

impl<T: Named> Merge<T> {
    /// Of this many places, at least one.
    pub(super) fn new(places: usize) -> Self {
        if places == 1 { Merge::One } else { Merge::Waiting { listed: std::iter::repeat_with(|| None).take(places).collect() } }
    }

    /// What `place` tells, as news of the whole.
    pub(super) fn take(&mut self, place: usize, news: News<T>) -> Vec<Event<T>> {
        match self {
            Merge::One => vec![match news {
                News::Listed(objects) => Event::Reset(objects),
                News::Applied(object) => Event::Apply(object),
                News::Deleted(name) => Event::Delete(name),
            }],
            Merge::Waiting { listed } => {
                stage(&mut listed[place], news);
                if listed.iter().any(Option::is_none) {
                    return Vec::new();
                }
                let listed: Vec<_> = std::mem::take(listed).into_iter().flatten().collect();
                *self = Merge::Told { names: listed.iter().map(|objects| objects.keys().cloned().collect()).collect() };
                vec![Event::Reset(listed.into_iter().flat_map(BTreeMap::into_values).collect())]
            }
            Merge::Told { names } => differ(&mut names[place], news),
        }
    }
}

fn stage<T: Named>(listed: &mut Option<BTreeMap<ObjectRef, T>>, news: News<T>) {
    match (news, listed) {
        (News::Listed(objects), listed) => *listed = Some(objects.into_iter().map(|object| (object.object_ref(), object)).collect()),
        (News::Applied(object), Some(listed)) => drop(listed.insert(object.object_ref(), object)),
        (News::Deleted(name), Some(listed)) => drop(listed.remove(&name)),
        (_, None) => {} // what was not listed is not watched
    }
}

fn differ<T: Named>(names: &mut BTreeSet<ObjectRef>, news: News<T>) -> Vec<Event<T>> {
    match news {
        News::Listed(objects) => {
            let mut gone = std::mem::take(names);
            *names = objects.iter().map(Named::object_ref).collect();
            gone.retain(|name| !names.contains(name));
            objects.into_iter().map(Event::Apply).chain(gone.into_iter().map(Event::Delete)).collect()
        }
        News::Applied(object) => {
            names.insert(object.object_ref());
            vec![Event::Apply(object)]
        }
        News::Deleted(name) => {
            names.remove(&name);
            vec![Event::Delete(name)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::objects::{Metadata, Service};

    fn service(namespace: &str, name: &str) -> Service {
        let metadata = Metadata { name: name.into(), namespace: Some(namespace.into()), ..Metadata::default() };
        Service { metadata, ..Service::default() }
    }

    fn told(events: Vec<Event<Service>>) -> Vec<String> {
        events
            .into_iter()
            .map(|event| match event {
                Event::Apply(object) => format!("apply {}", object.object_ref()),
                Event::Delete(name) => format!("delete {name}"),
                Event::Reset(objects) => {
                    format!("reset {}", objects.iter().map(|object| object.object_ref().to_string()).collect::<Vec<_>>().join(" "))
                }
            })
            .collect()
    }

    #[test]
    fn one_place_is_passed_on_as_it_is() {
        let mut merge = Merge::new(1);
        assert_eq!(told(merge.take(0, News::Listed(vec![service("a", "x")]))), ["reset a/x"]);
        assert_eq!(told(merge.take(0, News::Listed(vec![]))), ["reset "]);
    }

    #[test]
    fn nothing_is_told_before_every_namespace_was_listed() {
        let mut merge = Merge::new(2);
        assert!(merge.take(0, News::Listed(vec![service("a", "x"), service("a", "y")])).is_empty());
        assert!(merge.take(0, News::Deleted(ObjectRef::new("a", "y"))).is_empty());
        assert!(merge.take(0, News::Applied(service("a", "z"))).is_empty());
        assert_eq!(told(merge.take(1, News::Listed(vec![service("b", "x")]))), ["reset a/x a/z b/x"]);
    }

    #[test]
    fn a_later_list_of_one_namespace_takes_away_only_its_own() {
        let mut merge = Merge::new(2);
        merge.take(0, News::Listed(vec![service("a", "x"), service("a", "y")]));
        merge.take(1, News::Listed(vec![service("b", "x")]));
        assert_eq!(told(merge.take(0, News::Listed(vec![service("a", "y")]))), ["apply a/y", "delete a/x"]);
        assert_eq!(told(merge.take(1, News::Deleted(ObjectRef::new("b", "x")))), ["delete b/x"]);
    }
}
