//! The words of a tunnel's end: how its two sides stand, what each is told, and how log and metrics call what happened.
//!
//! It never knows when any of them is said: that is [`Closing`](super::Closing). `relay` acts on them, `registry` writes them down.

use crate::telemetry::metrics::{Initiator, Side};

/// Longest payload of a control frame.
const CONTROL_MAX: usize = 125;

/// Why the proxy ends a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Not a byte either way for too long.
    Idle,
    /// This process ends.
    Shutdown,
    /// It has reached its age.
    MaxAge,
    /// Its pod is told to go.
    Terminating,
    /// Its endpoint left the Service.
    EndpointRemoved,
    /// Its location no longer lists the Service.
    BackendRemoved,
    /// Its location is gone.
    RouteRemoved,
    /// Its location may no longer have the host, the port or the Service.
    Withdrawn,
    /// Its endpoint has more than its share, and others were added.
    Rebalance,
    /// An operator wants it.
    Operator,
    /// An operator wants it now: nobody is told.
    Killed,
    /// The client's frames are none.
    Framing,
    /// The client's message is larger than it may be.
    TooBig,
    /// The client sends more messages than it may.
    TooMany,
}

impl Reason {
    /// How log and metrics call it.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Idle => "idle",
            Reason::Shutdown => "shutdown",
            Reason::MaxAge => "max_age",
            Reason::Terminating => "pod_terminating",
            Reason::EndpointRemoved => "endpoint_removed",
            Reason::BackendRemoved => "backend_removed",
            Reason::RouteRemoved => "route_removed",
            Reason::Withdrawn => "grant_withdrawn",
            Reason::Rebalance => "rebalance",
            Reason::Operator => "operator",
            Reason::Killed => "killed",
            Reason::Framing => "framing",
            Reason::TooBig => "message_too_big",
            Reason::TooMany => "too_many_messages",
        }
    }

    /// All.
    pub const ALL: [Reason; 14] = [
        Reason::Idle,
        Reason::Shutdown,
        Reason::MaxAge,
        Reason::Terminating,
        Reason::EndpointRemoved,
        Reason::BackendRemoved,
        Reason::RouteRemoved,
        Reason::Withdrawn,
        Reason::Rebalance,
        Reason::Operator,
        Reason::Killed,
        Reason::Framing,
        Reason::TooBig,
        Reason::TooMany,
    ];

    /// The reason of this number.
    pub(in crate::tunnel) fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    /// The code of a close that is the client's own fault; every other sends it elsewhere.
    pub(super) fn fault(self) -> Option<u16> {
        match self {
            Reason::Framing => Some(1002),
            Reason::TooBig => Some(1009),
            Reason::TooMany => Some(1008),
            _ => None,
        }
    }

    /// What the client reads in the Close.
    pub(super) fn text(self) -> &'static str {
        match self {
            Reason::Idle => "idle",
            Reason::Shutdown => "server is restarting",
            Reason::MaxAge => "connection is old enough",
            Reason::Terminating | Reason::EndpointRemoved => "backend is restarting",
            Reason::BackendRemoved | Reason::RouteRemoved | Reason::Withdrawn => "service has moved",
            Reason::Rebalance => "moving to another backend",
            Reason::Operator | Reason::Killed => "please reconnect",
            Reason::Framing => "not a WebSocket frame",
            Reason::TooBig => "message is too big",
            Reason::TooMany => "too many messages",
        }
    }
}

/// The other end.
pub(in crate::tunnel) fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    }
}

/// A Close to be written towards a side, now, after what passed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// Who gets it.
    pub to: Side,
    /// Its code.
    pub code: u16,
    /// Its reason.
    pub reason: &'static str,
}

impl Goodbye {
    /// The frame, RFC 6455 section 5.5.1; masked towards the backend, whose client we are.
    pub fn frame(self, key: [u8; 4]) -> Vec<u8> {
        let reason = &self.reason.as_bytes()[..self.reason.len().min(CONTROL_MAX - 2)];
        let length = 2 + reason.len() as u8;
        let payload = self.code.to_be_bytes().into_iter().chain(reason.iter().copied());
        match self.to {
            Side::Client => [0x88, length].into_iter().chain(payload).collect(),
            Side::Backend => {
                let masked = payload.zip(key.into_iter().cycle()).map(|(byte, key)| byte ^ key);
                [0x88, 0x80 | length].into_iter().chain(key).chain(masked).collect()
            }
        }
    }
}

/// What becomes of a chunk: its first bytes pass, then a Close may follow; the rest is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How many bytes pass.
    pub pass: usize,
    /// What follows them.
    pub say: Option<Goodbye>,
}

/// How a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// More may come.
    Open,
    /// It sent its FIN; it may still read.
    Finished,
    /// It was reset, or timed out: it does neither.
    Lost,
}

/// How a sink stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// More may be written.
    Open,
    /// It gets a FIN once all is written.
    Ending,
    /// It got it.
    Shut,
    /// It takes no more.
    Broken,
}

/// Why a tunnel ended otherwise than by a closing handshake of its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclean {
    /// The client went without a Close.
    ClientGone,
    /// The backend went without a Close.
    BackendGone,
    /// No place for a Close came in time.
    MidFrame,
    /// A Close of ours was not answered in time.
    CloseTimeout,
    /// A Ping of ours was not answered in time.
    Silent,
}

impl Unclean {
    /// How log and metrics call it.
    pub fn label(self) -> &'static str {
        match self {
            Unclean::ClientGone => "client_gone",
            Unclean::BackendGone => "backend_gone",
            Unclean::MidFrame => "mid_frame",
            Unclean::CloseTimeout => "close_timeout",
            Unclean::Silent => "ping_timeout",
        }
    }
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Who began.
    pub by: Initiator,
    /// Why.
    pub reason: &'static str,
    /// What was not as it should be.
    pub unclean: Option<Unclean>,
    /// The Close that each side saw: client, backend. The inner `None` is a Close without a code.
    pub closes: [Option<Option<u16>>; 2],
}
