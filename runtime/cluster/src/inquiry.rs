//! One question to a node that is known by its address alone.

use std::future::poll_fn;
use std::task::Poll;

use bytes::BytesMut;
use tokio::time::timeout;

use crate::endpoint::Endpoint;
use crate::frame::{Frame, Message, Role};
use crate::identity::Lane;
use crate::meeting::dial;
use crate::wire::Wire;

/// Asks whoever is at an address one thing, on [`Lane::Join`].
///
/// # Errors
/// Why there is no answer, in a sentence: the other node's own where that refuses.
pub async fn inquire(endpoint: &Endpoint, address: &str, question: Message) -> Result<Message, String> {
    question.assert_fits();
    let config = &endpoint.config;
    let late = |_| format!("{address} does not answer");
    let connected = timeout(config.hello_wait, endpoint.network.connect(address)).await.map_err(late)?;
    let stream = connected.map_err(|error| format!("{address} cannot be reached: {error}"))?;
    let met = dial(endpoint, stream, None, Lane::Join).await;
    let stream = met.map_err(|error| format!("{address}: {error}"))?;
    let mut wire = Wire::new(stream, BytesMut::with_capacity, config.stall);
    let mut frame = Some(Frame { role: Role::Request, number: 0, message: question });
    let answered = poll_fn(|context| {
        if let Err(error) = wire.poll_send(context, || frame.take()) {
            return Poll::Ready(Err(format!("{address}: {error}")));
        }
        match wire.poll_receive(context) {
            Poll::Ready(Ok(Some(received))) => Poll::Ready(Ok(received.frame)),
            Poll::Ready(Ok(None)) => Poll::Ready(Err(format!("{address} has closed the connection"))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(format!("{address}: {error}"))),
            Poll::Pending => wire.poll_stalled(context, true).map(|()| Err(format!("{address} does not answer"))),
        }
    });
    match answered.await? {
        Frame { role: Role::Reply, message, .. } => Ok(message),
        _ => Err(format!("{address} does not answer what it was asked")),
    }
}
