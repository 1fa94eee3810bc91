//! One HTTP/1.1 request as bytes, and reading answers with Content-Length; no sockets.

use crate::options::Target;

/// Answers with longer heads are refused.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The request that all generators send.
pub fn request(target: &Target) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", target.host).into_bytes()
}

/// Takes one answer after the other from a connection.
#[derive(Debug, Default)]
pub struct Answers {
    head: Vec<u8>,
    /// Status and body bytes still to come, once the head is complete.
    body: Option<(u16, usize)>,
}

/// The peer does not speak HTTP/1.1 with Content-Length, or closed the connection.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct BadAnswer(pub &'static str);

impl Answers {
    /// Takes what was read; gives the status when an answer is complete. Bytes after it are an error, since one
    /// request is open at most.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<Option<u16>, BadAnswer> {
        if self.body.is_none() {
            self.head.extend_from_slice(bytes);
            let Some((status, head, length)) = parse_head(&self.head)? else {
                let fits = self.head.len() <= HEAD_BYTES_MAX;
                return if fits { Ok(None) } else { Err(BadAnswer("the head of the answer is too long")) };
            };
            self.body = Some((status, length));
            bytes = &bytes[bytes.len() - (self.head.len() - head)..];
        }
        let (status, missing) = self.body.as_mut().expect("set above when it was none");
        *missing = missing.checked_sub(bytes.len()).ok_or(BadAnswer("more than one answer"))?;
        if *missing > 0 {
            return Ok(None);
        }
        let status = *status;
        self.head.clear();
        self.body = None;
        Ok(Some(status))
    }
}

/// Status, length of the head and length of the body; `None` while the head is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>, BadAnswer> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let parsed = answer.parse(bytes).map_err(|_| BadAnswer("not HTTP/1.1"))?;
    let httparse::Status::Complete(head) = parsed else { return Ok(None) };
    let length = answer.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse().ok());
    let length = length.ok_or(BadAnswer("an answer without Content-Length"))?;
    Ok(Some((answer.code.unwrap_or_default(), head, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-LENGTH: 5\r\n\r\nhello";

    #[test]
    fn answers_are_complete_wherever_they_are_cut() {
        for cut in 1..ANSWER.len() {
            let mut answers = Answers::default();
            for round in 0..2 {
                assert_eq!(answers.take(&ANSWER[..cut]), Ok(None), "cut at {cut}, round {round}");
                assert_eq!(answers.take(&ANSWER[cut..]), Ok(Some(503)), "cut at {cut}, round {round}");
            }
        }
    }

    #[test]
    fn what_is_not_exactly_one_answer_is_refused() {
        let take = |bytes: &[u8]| Answers::default().take(bytes);
        assert_eq!(take(&[ANSWER, b"x"].concat()), Err(BadAnswer("more than one answer")));
        assert_eq!(take(b"HTTP/1.1 200 OK\r\n\r\n"), Err(BadAnswer("an answer without Content-Length")));
        assert_eq!(take(b"SSH-2.0-x\r\n"), Err(BadAnswer("not HTTP/1.1")));
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &[b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(take(&endless), Err(BadAnswer("the head of the answer is too long")));
    }
}
