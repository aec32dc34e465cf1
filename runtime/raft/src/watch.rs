//! A value that openraft watches: tokio's, but who waits is woken in the order of waiting. tokio's own draws that by chance, and a
//! simulation could not be repeated.

use std::sync::Arc;

use openraft::async_runtime::watch;
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::Notify;
use tokio::sync::watch as tokio_watch;

/// See the module.
pub(crate) struct Ordered;

pub(crate) struct Sender<T> {
    /// Taken only when this is dropped.
    sender: Option<tokio_watch::Sender<T>>,
    bell: Arc<Notify>,
}

pub(crate) struct Receiver<T> {
    receiver: tokio_watch::Receiver<T>,
    bell: Arc<Notify>,
}

impl watch::Watch for Ordered {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = tokio_watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = tokio_watch::channel(init);
        let bell = Arc::new(Notify::new());
        (Sender { sender: Some(sender), bell: bell.clone() }, Receiver { receiver, bell })
    }
}

impl<T> Sender<T> {
    fn sender(&self) -> &tokio_watch::Sender<T> {
        self.sender.as_ref().expect("it is not being dropped")
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // When it was the last one, the others are to find that out.
        self.sender = None;
        self.bell.notify_waiters();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver { receiver: self.receiver.clone(), bell: self.bell.clone() }
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<Ordered, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        self.sender().send(value).map_err(|error| watch::SendError(error.0))?;
        self.bell.notify_waiters();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let is_modified = self.sender().send_if_modified(modify);
        if is_modified {
            self.bell.notify_waiters();
        }
        is_modified
    }

    fn borrow_watched(&self) -> tokio_watch::Ref<'_, T> {
        self.sender().borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { receiver: self.sender().subscribe(), bell: self.bell.clone() }
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<Ordered, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        let bell = self.bell.clone();
        loop {
            // Waits from here on, so that nothing is missed between looking and waiting.
            let rung = bell.notified();
            if self.receiver.borrow().has_changed() {
                self.receiver.mark_unchanged();
                return Ok(());
            }
            self.receiver.has_changed().map_err(|_| watch::RecvError(()))?;
            rung.await;
        }
    }

    fn borrow_watched(&self) -> tokio_watch::Ref<'_, T> {
        self.receiver.borrow()
    }

    fn borrow_and_update(&mut self) -> tokio_watch::Ref<'_, T> {
        self.receiver.borrow_and_update()
    }
}
