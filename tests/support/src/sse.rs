//! One live read over SSE, event by event, as the EventSource rules take lines apart.

use std::io;
use std::net::SocketAddr;

use crate::http::{Connection, Request, Response};

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `event:`.
    pub kind: String,
    /// The last `id:`, in this event or before it.
    pub id: String,
    /// `data:` lines, joined by line feeds.
    pub data: String,
}

impl Event {
    /// The data of a `control` event.
    #[track_caller]
    pub fn control(&self) -> serde_json::Value {
        assert_eq!(self.kind, "control", "{self:?}");
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("a control event that is no JSON ({e}): {self:?}"))
    }
}

/// An open live read.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
    /// Text received and not yet split into lines.
    text: Vec<u8>,
    id: String,
    /// Comment lines seen so far.
    pub comments: usize,
}

impl Events {
    /// Sends `request` on a new connection and reads the response's head. A response that is no event stream is
    /// given back as the error, whole.
    ///
    /// # Errors
    /// The response, when its status is not 200.
    pub fn open(address: SocketAddr, request: &Request) -> Result<(Events, Response), Response> {
        Self::open_if_alive(address, request).unwrap_or_else(|e| panic!("no response head: {e}"))
    }

    /// As [`Events::open`], from a server that may die at any moment.
    ///
    /// # Errors
    /// The connection broke before the response's head was whole; within, the response when its status is not 200.
    pub fn open_if_alive(address: SocketAddr, request: &Request) -> io::Result<Result<(Events, Response), Response>> {
        let mut connection = Connection::open(address)?;
        connection.write(&request.to_bytes(&address.to_string()))?;
        let head = connection.read_head()?;
        if head.status != 200 {
            return Ok(Err(head));
        }
        assert_eq!(head.header("transfer-encoding"), Some("chunked"), "an event stream of unknown length: {head:?}");
        Ok(Ok((Events { connection, text: Vec::new(), id: String::new(), comments: 0 }, head)))
    }

    /// The connection underneath.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The next event; `None` when the server has ended the response properly.
    ///
    /// # Errors
    /// The connection broke in the middle of the response, or nothing came for the connection's timeout.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        let mut event = Event::default();
        let mut data: Vec<String> = Vec::new();
        while let Some(line) = self.line()? {
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                // An empty line ends an event; one without data (after a comment, say) is none.
                "" if line.is_empty() && data.is_empty() => event = Event::default(),
                "" if line.is_empty() => {
                    event.id.clone_from(&self.id);
                    event.data = data.join("\n");
                    return Ok(Some(event));
                }
                "" => self.comments += 1,
                "event" => event.kind = value.to_owned(),
                "id" => self.id = value.to_owned(),
                "data" => data.push(value.to_owned()),
                _ => {}
            }
        }
        Ok(None)
    }

    /// One line; a line ends with CR LF, LF or CR.
    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                // A CR at the very end may be half of a CR LF.
                let crlf = self.text[end] == b'\r' && self.text.get(end + 1) == Some(&b'\n');
                if self.text[end] != b'\r' || end + 1 < self.text.len() {
                    let line: Vec<u8> = self.text.drain(..end + 1 + usize::from(crlf)).collect();
                    return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
                }
            }
            match self.connection.read_chunk()? {
                Some(chunk) => self.text.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}
