//! The locations of one host, found by path: a tree of path elements for Exact and Prefix, a list of expressions beside it.
//!
//! It never knows what else a location asks for: it is told. A look-up reads the path once, however long, and looks at the fewest locations.

use regex::bytes::Regex;

use super::location::{Location, Span};

/// A location as the tree holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its place among the host's locations: the lowest that matches wins.
    order: u32,
    /// Its index among all locations.
    pub(super) location: u32,
    /// Whether anything but the path must hold.
    pub(super) conditional: bool,
}

/// The locations of one host.
pub(super) struct Paths {
    nodes: Box<[Node]>,
    expressions: Box<[(Regex, Candidate)]>,
}

/// One path element; the first node is the root, before any.
#[derive(Default)]
struct Node {
    /// Sorted by element.
    children: Vec<(Box<str>, u32)>,
    /// Locations that take the path that ends here, by order.
    exact: Vec<Candidate>,
    /// Locations that take every path that goes through here, by order.
    prefix: Vec<Candidate>,
    parent: Option<u32>,
    /// The lowest order in `prefix` of this node and of those above: what is not below it need not be looked at.
    first: u32,
}

impl Paths {
    /// Takes the locations of a host in order of precedence, each with its index.
    pub(super) fn compile<'a>(locations: impl Iterator<Item = (u32, &'a Location)>) -> Self {
        let mut nodes = vec![Node::default()];
        let mut expressions = Vec::new();
        for (order, (index, location)) in (0..).zip(locations) {
            let candidate = Candidate { order, location: index, conditional: location.is_conditional() };
            match &location.span {
                Span::Exact(path) => {
                    let node = descend(&mut nodes, path);
                    nodes[node].exact.push(candidate);
                }
                Span::Prefix { path, .. } => {
                    let node = descend(&mut nodes, path);
                    nodes[node].prefix.push(candidate);
                }
                Span::Expression(regex) => expressions.push((regex.clone(), candidate)),
                Span::Nothing => {}
            }
        }
        // A parent is always made before its children.
        for at in 0..nodes.len() {
            let above = nodes[at].parent.map_or(u32::MAX, |parent| nodes[parent as usize].first);
            nodes[at].first = nodes[at].prefix.first().map_or(above, |candidate| candidate.order.min(above));
        }
        Self { nodes: nodes.into(), expressions: expressions.into() }
    }

    /// The first location, by precedence, that takes this path and that `takes` agrees to.
    pub(super) fn find(&self, path: &str, takes: impl Fn(Candidate) -> bool) -> Option<u32> {
        let agreed = |candidate: &&Candidate| !candidate.conditional || takes(**candidate);
        let (mut node, ends_here) = self.walk(path);
        let mut best = if ends_here { node.exact.iter().find(agreed) } else { None };
        let order = |best: Option<&Candidate>| best.map_or(u32::MAX, |candidate| candidate.order);

        let mut expressions = self.expressions.iter().take_while(|(_, candidate)| candidate.order < order(best));
        best =
            expressions.find(|(regex, candidate)| regex.is_match(path.as_bytes()) && agreed(&candidate)).map(|(_, found)| found).or(best);

        while node.first < order(best) {
            best = node.prefix.iter().take_while(|candidate| candidate.order < order(best)).find(agreed).or(best);
            let Some(parent) = node.parent else { break };
            node = &self.nodes[parent as usize];
        }
        best.map(|candidate| candidate.location)
    }

    /// The deepest node that the path goes through, and whether the path ends there.
    fn walk(&self, path: &str) -> (&Node, bool) {
        let mut node = &self.nodes[0];
        for element in elements(path) {
            match node.child(element) {
                Ok(at) => node = &self.nodes[node.children[at].1 as usize],
                Err(_) => return (node, false),
            }
        }
        (node, true)
    }
}

impl Node {
    fn child(&self, element: &str) -> Result<usize, usize> {
        self.children.binary_search_by(|(name, _)| (**name).cmp(element))
    }
}

/// The elements of a path; `/` has one, the empty one, and the empty path none.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

/// The node of a path, made where it is missing.
fn descend(nodes: &mut Vec<Node>, path: &str) -> usize {
    let mut at = 0;
    for element in elements(path) {
        at = match nodes[at].child(element) {
            Ok(child) => nodes[at].children[child].1 as usize,
            Err(place) => {
                let (child, parent) = (nodes.len(), u32::try_from(at).unwrap_or(u32::MAX));
                nodes[at].children.insert(place, (element.into(), u32::try_from(child).unwrap_or(u32::MAX)));
                nodes.push(Node { parent: Some(parent), ..Node::default() });
                child
            }
        };
    }
    at
}
