//! Values that are shared on one thread by types that must be `Send`.

use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;

use send_wrapper::SendWrapper;
use weir_stream::Group;

/// A group's streams, shared by apply (which changes them) and the shard (which looks).
pub type State = Local<Group>;

/// A value shared by parts of one shard. Sent to another thread it may be held, but not touched: that panics.
pub struct Local<T>(SendWrapper<Rc<RefCell<T>>>);

impl<T> Local<T> {
    /// Shares `value` on this thread.
    pub fn new(value: T) -> Local<T> {
        Local(SendWrapper::new(Rc::new(RefCell::new(value))))
    }

    /// Looks at the value.
    ///
    /// # Panics
    /// On another thread, and while it is being changed.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    /// Changes the value.
    ///
    /// # Panics
    /// On another thread, and while it is being looked at.
    pub fn borrow_mut(&self) -> RefMut<'_, T> {
        self.0.borrow_mut()
    }
}

impl<T> Clone for Local<T> {
    fn clone(&self) -> Local<T> {
        Local(self.0.clone())
    }
}
