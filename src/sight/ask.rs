//! Questions to one admin port, over whatever stream leads there.
//!
//! It never knows how the stream was made. Plain HTTP/1.1, one question after the other; answers are JSON of a bounded size.

use std::{io, str};

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::model::sight::{Closing, Page, Sort};

/// Rows of one answer at most; a replica has them in memory while it answers.
const PAGE: usize = 1000;
/// Of one answer: a page is a megabyte.
const LARGEST: usize = 16 << 20;
/// Of the head of an answer.
const HEAD: usize = 16 << 10;

/// What came instead of an answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// The stream ended, or never was one.
    #[error("the connection ended: {0}")]
    Ended(#[from] io::Error),
    /// Whoever listens there is no admin port of Carrick's.
    #[error("what answers there is no admin port of Carrick: {0}")]
    Foreign(&'static str),
    /// An answer that is none.
    #[error("it answers {status}: {text}")]
    Refused {
        /// Of HTTP.
        status: u16,
        /// What it says.
        text: String,
    },
}

/// Which tunnels are asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The filters, as a query.
    pub filters: String,
    /// What the first one has most of.
    pub sort: Sort,
    /// At most so many.
    pub limit: usize,
}

/// How tunnels are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Told to come back.
    Drain,
    /// Cut.
    Kill,
}

/// An open way to an admin port.
#[derive(Debug)]
pub struct Conversation<S> {
    stream: S,
    read: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    /// Begins over this stream.
    pub fn over(stream: S) -> Self {
        Self { stream, read: BytesMut::new() }
    }

    /// The first of the tunnels that are wanted, page after page.
    pub async fn list(&mut self, wanted: &Wanted) -> Result<Page, AskError> {
        let mut all = Page::default();
        loop {
            let limit = (wanted.limit - all.tunnels.len()).min(PAGE);
            let after = all.next.take().map(|next| format!("&after={next}")).unwrap_or_default();
            let target = format!("/debug/tunnels?sort={}&limit={limit}{after}&{}", wanted.sort.label(), wanted.filters);
            let page: Page = self.exchange("GET", &target).await?;
            let tunnels = [all.tunnels, page.tunnels].concat();
            all = Page { tunnels, ..page };
            if all.next.is_none() || all.tunnels.len() >= wanted.limit {
                return Ok(all);
            }
        }
    }

    /// Ends tunnels: how many there are.
    pub async fn end(&mut self, end: End, query: &str) -> Result<Closing, AskError> {
        let path = match end {
            End::Drain => "/drain",
            End::Kill => "/kill",
        };
        self.exchange("POST", &format!("{path}?{query}")).await
    }

    async fn exchange<T: DeserializeOwned>(&mut self, method: &str, target: &str) -> Result<T, AskError> {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.flush().await?;
        let (status, length) = self.head().await?;
        while self.read.len() < length {
            self.more().await?;
        }
        let body: Bytes = self.read.split_to(length).freeze();
        if status != 200 {
            let text = String::from_utf8_lossy(&body).trim().chars().take(1000).collect();
            return Err(AskError::Refused { status, text });
        }
        serde_json::from_slice(&body).map_err(|_| AskError::Foreign("it answers something else"))
    }

    /// Status and length of the answer whose head comes next.
    async fn head(&mut self) -> Result<(u16, usize), AskError> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut answer = httparse::Response::new(&mut fields);
            match answer.parse(&self.read) {
                Ok(httparse::Status::Complete(size)) => {
                    let status = answer.code.unwrap_or_default();
                    let length = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
                    let length = length.and_then(|field| str::from_utf8(field.value).ok()?.parse().ok());
                    let length = length.filter(|length| *length <= LARGEST).ok_or(AskError::Foreign("its answer has no length"))?;
                    let _ = self.read.split_to(size);
                    return Ok((status, length));
                }
                Ok(httparse::Status::Partial) if self.read.len() < HEAD => self.more().await?,
                _ => return Err(AskError::Foreign("it does not speak HTTP")),
            }
        }
    }

    async fn more(&mut self) -> Result<(), AskError> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sight::tests::row;

    /// Somebody who gives these answers, and what was asked of them.
    async fn ask<T>(answers: &[String], talk: impl AsyncFnOnce(&mut Conversation<tokio::io::DuplexStream>) -> T) -> (T, String) {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(answers.concat().as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        let mut conversation = Conversation::over(near);
        let said = talk(&mut conversation).await;
        drop(conversation);
        let mut asked = String::new();
        far.read_to_string(&mut asked).await.unwrap();
        (said, asked)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn page(ids: std::ops::Range<u64>, next: Option<&str>) -> String {
        let tunnels = ids.map(|id| row(id, 1.0, 1)).collect();
        answer("200 OK", &serde_json::to_string(&Page { open: 9, matching: 3, next: next.map(Into::into), tunnels }).unwrap())
    }

    fn wanted(limit: usize) -> Wanted {
        Wanted { filters: "route=default%2Fchat".into(), sort: Sort::Bytes, limit }
    }

    #[tokio::test]
    async fn pages_are_turned_until_the_last_one() {
        let (all, asked) = ask(&[page(0..2, Some("5.1")), page(2..3, None)], async |port| port.list(&wanted(usize::MAX)).await).await;
        let all = all.unwrap();
        assert_eq!((all.open, all.matching, all.tunnels.len()), (9, 3, 3));
        assert!(
            asked.starts_with("GET /debug/tunnels?sort=bytes&limit=1000&route=default%2Fchat HTTP/1.1\r\nHost: localhost\r\n"),
            "{asked}"
        );
        assert!(asked.contains("&limit=1000&after=5.1&route="), "{asked}");
    }

    #[tokio::test]
    async fn no_more_is_asked_for_than_is_wanted() {
        let (all, asked) = ask(&[page(0..2, Some("5.1"))], async |port| port.list(&wanted(2)).await).await;
        assert_eq!(all.unwrap().tunnels.len(), 2);
        assert!(asked.contains("&limit=2&"), "{asked}");
    }

    #[tokio::test]
    async fn an_order_is_posted() {
        let (said, asked) =
            ask(&[answer("200 OK", "{\"closing\": 7}")], async |port| port.end(End::Drain, "all=true&over=30s").await).await;
        assert_eq!(said.unwrap().closing, 7);
        assert!(asked.starts_with("POST /drain?all=true&over=30s HTTP/1.1\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_said() {
        for (answer, words) in [
            (answer("400 Bad Request", "the query has \"x\"\n"), "it answers 400: the query has \"x\""),
            (answer("200 OK", "<html>"), "no admin port of Carrick: it answers something else"),
            ("HTTP/1.1 200 OK\r\n\r\n".into(), "no admin port of Carrick: its answer has no length"),
            ("SSH-2.0-x\r\n".into(), "no admin port of Carrick: it does not speak HTTP"),
            (String::new(), "the connection ended"),
        ] {
            let (said, _) = ask(&[answer], async |port| port.end(End::Kill, "").await).await;
            let said = said.unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }
}
