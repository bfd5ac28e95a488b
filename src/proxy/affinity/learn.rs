//! Sessions whose names servers make up: which request begins one, and its name, read from the answer that tells the client. Of Engine.IO and
//! SignalR.
//!
//! It never delays a byte: what passes is looked at, and only its beginning. `http` hands it the answer to a request that brought no name.

use std::{
    pin::Pin as Pinned,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header::CONTENT_ENCODING};
use http_body::{Frame, SizeHint};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Request, sessions::Sessions};
use crate::{
    balance::{Pin, affinity::key},
    proxy::body::{Body, BodyError},
    router,
};

/// How much of an answer is looked at: both handshakes are a few hundred bytes.
const LOOKED_AT: usize = 2048;

/// Whether a request is the first of a session, for which the server is to make up a name: Engine.IO's handshake, SignalR's negotiation.
pub fn begins_session(request: &Request<'_>) -> bool {
    let has = |name| request.query.is_some_and(|query| router::parameter::<SmallVec<[u8; 64]>>(query, name).is_some());
    (has("EIO") && !has("sid")) || (request.method == Method::POST && request.path.as_str().ends_with("/negotiate"))
}

/// How a server tells the names of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The open packet of Engine.IO: `0{"sid":"..."`, in version 3 behind its length.
    EngineIo,
    /// The negotiation of SignalR: `connectionToken`, `connectionId`, as an old server spells them, too.
    SignalR,
}

impl Told {
    /// Who names a session by this query parameter.
    pub fn by(parameter: &str) -> Option<Self> {
        match parameter {
            "sid" => Some(Told::EngineIo),
            "id" | "connectionToken" | "connectionId" => Some(Told::SignalR),
            _ => None,
        }
    }

    /// The names that the beginning of an answer tells.
    fn names(self, body: &[u8]) -> SmallVec<[String; 2]> {
        let members: &[&str] = match self {
            Told::EngineIo if is_open_packet(body) => &["\"sid\""],
            Told::SignalR if body.trim_ascii_start().first() == Some(&b'{') => {
                &["\"connectionToken\"", "\"connectionId\"", "\"ConnectionToken\"", "\"ConnectionId\""]
            }
            _ => &[],
        };
        members.iter().filter_map(|member| string(body, member.as_bytes())).collect()
    }
}

/// `0{`, or `97:0{`, or in binary a 0, the digits of the length as bytes, a 255, and then that.
fn is_open_packet(body: &[u8]) -> bool {
    let is_length = |byte: &&u8| byte.is_ascii_digit() || **byte < 10;
    let length = body.iter().take(8).take_while(is_length).count();
    let packet = match body.get(length) {
        Some(b':' | 255) => &body[length + 1..],
        _ => body,
    };
    packet.starts_with(b"0{")
}

/// The value of the first member of that name, where it is a string that ends here.
fn string(body: &[u8], member: &[u8]) -> Option<String> {
    let after = &body[memchr::memmem::find(body, member)? + member.len()..];
    let value = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let mut escaped = false;
    let end = value.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    serde_json::from_slice(&value[..end + 2]).ok().filter(|name: &String| !name.is_empty())
}

/// Looks for the names of sessions in an answer of this endpoint.
pub fn learn(mut answer: Response<Body>, told: Told, sessions: &Arc<Sessions>, pin: Pin) -> Response<Body> {
    if answer.status() != StatusCode::OK || answer.headers().contains_key(CONTENT_ENCODING) {
        return answer;
    }
    let lesson = Lesson { told, sessions: sessions.clone(), pin };
    let body = std::mem::take(answer.body_mut());
    *answer.body_mut() = match body {
        Body::Empty => Body::Empty,
        Body::Full(bytes) => {
            lesson.read(&bytes[..bytes.len().min(LOOKED_AT)]);
            Body::Full(bytes)
        }
        Body::Boxed(body) => Body::boxed(Overheard { body: Body::Boxed(body), beginning: Vec::new(), lesson: Some(lesson) }),
    };
    answer
}

/// What there is to be learned, and who learns it.
struct Lesson {
    told: Told,
    sessions: Arc<Sessions>,
    pin: Pin,
}

impl Lesson {
    /// Whether something was learned.
    fn read(&self, beginning: &[u8]) -> bool {
        let names = self.told.names(beginning);
        let now = Instant::now();
        for name in &names {
            self.sessions.learn(key(name.as_bytes()), self.pin, now);
        }
        !names.is_empty()
    }
}

/// A body whose beginning is looked at as it passes.
struct Overheard {
    body: Body,
    beginning: Vec<u8>,
    lesson: Option<Lesson>,
}

impl Overheard {
    fn hear(&mut self, data: &[u8]) {
        let Some(lesson) = &self.lesson else { return };
        self.beginning.extend_from_slice(&data[..data.len().min(LOOKED_AT - self.beginning.len())]);
        if lesson.read(&self.beginning) || self.beginning.len() == LOOKED_AT {
            self.lesson = None;
            self.beginning = Vec::new();
        }
    }
}

impl http_body::Body for Overheard {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pinned<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pinned::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.hear(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const PIN: Pin = Pin { endpoint: 1, pool: 2, client: 3 };

    fn names(told: Told, body: &[u8]) -> Vec<String> {
        told.names(body).into_vec()
    }

    #[test]
    fn engine_io_tells_its_sid() {
        let open = r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000}"#;
        assert_eq!(names(Told::EngineIo, open.as_bytes()), ["lv_VI97HAXpY6yYWAAAC"]);
        assert_eq!(names(Told::EngineIo, format!("97:{open}2:40").as_bytes()), ["lv_VI97HAXpY6yYWAAAC"]);
        assert_eq!(names(Told::EngineIo, &[&[0, 9, 7, 255], open.as_bytes()].concat()), ["lv_VI97HAXpY6yYWAAAC"]);
        for other in [r#"42["sid","x"]"#, r#"{"sid":"x"}"#, r#"0{"sid":7}"#, r#"0{"sid":"cut"#, r#"0{"sid":"#, "0{", "97:", ""] {
            assert_eq!(names(Told::EngineIo, other.as_bytes()), [""; 0], "{other}");
        }
    }

    #[test]
    fn signalr_tells_token_and_id() {
        let negotiated = br#"{"negotiateVersion":1,"connectionId":"ab","connectionToken":"c\u002Bd","availableTransports":[]}"#;
        assert_eq!(names(Told::SignalR, negotiated), ["c+d", "ab"]);
        assert_eq!(names(Told::SignalR, br#"{ "ConnectionToken" : "e" }"#), ["e"]);
        assert_eq!(names(Told::SignalR, br#"["connectionToken","x"]"#), [""; 0]);
        assert_eq!((Told::by("id"), Told::by("sid"), Told::by("user")), (Some(Told::SignalR), Some(Told::EngineIo), None));
    }

    #[tokio::test]
    async fn a_body_in_pieces_passes_as_it_is_and_is_understood() {
        let pieces = [r#"0{"si"#, r#"d":"ab"#, r#"c","x":1}"#, "2probe"];
        let sessions = Arc::new(Sessions::new(1000, Arc::default()));
        let frames = futures_util::stream::iter(pieces.map(|piece| Ok(Frame::data(Bytes::from(piece)))));
        let answer = learn(Response::new(Body::boxed(StreamBody::new(frames))), Told::EngineIo, &sessions, PIN);
        let passed = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(passed, pieces.concat());
        assert_eq!(sessions.find(key(b"abc"), Instant::now()), Some(PIN));
    }

    #[tokio::test]
    async fn only_the_beginning_is_looked_at() {
        let sessions = Arc::new(Sessions::new(1000, Arc::default()));
        let long = format!("{{{}\"connectionToken\":\"late\"}}", " ".repeat(LOOKED_AT));
        let frames = futures_util::stream::iter([Ok(Frame::data(Bytes::from(long)))]);
        let answer = learn(Response::new(Body::boxed(StreamBody::new(frames))), Told::SignalR, &sessions, PIN);
        answer.into_body().collect().await.unwrap();
        assert_eq!(sessions.find(key(b"late"), Instant::now()), None);
    }
}
