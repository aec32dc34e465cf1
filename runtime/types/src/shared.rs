//! Values that several owners share, as serde writes them: each as if it had one owner. Named in `#[serde(with = ...)]`.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes what is shared.
///
/// # Errors
/// The format's own.
pub fn serialize<S: Serializer, T: Serialize + ?Sized>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().serialize(serializer)
}

/// Reads what is shared from now on.
///
/// # Errors
/// The format's own.
pub fn deserialize<'de, D: Deserializer<'de>, T: ?Sized>(deserializer: D) -> Result<Arc<T>, D::Error>
where
    Box<T>: Deserialize<'de>,
{
    Ok(Arc::from(Box::<T>::deserialize(deserializer)?))
}

/// The same, where there may be none.
pub mod option {
    use super::*;

    /// Writes what is shared, if it is there.
    ///
    /// # Errors
    /// The format's own.
    pub fn serialize<S: Serializer, T: Serialize + ?Sized>(
        value: &Option<Arc<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_deref().serialize(serializer)
    }

    /// Reads what is shared from now on, if it is there.
    ///
    /// # Errors
    /// The format's own.
    pub fn deserialize<'de, D: Deserializer<'de>, T: ?Sized>(deserializer: D) -> Result<Option<Arc<T>>, D::Error>
    where
        Box<T>: Deserialize<'de>,
    {
        Ok(Option::<Box<T>>::deserialize(deserializer)?.map(Arc::from))
    }
}

/// The same, where there are several.
pub mod list {
    use super::*;

    /// Writes all of them.
    ///
    /// # Errors
    /// The format's own.
    pub fn serialize<S: Serializer, T: Serialize>(values: &[Arc<T>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| &**value))
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// The format's own.
    pub fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<T>>, D::Error> {
        Ok(Vec::<T>::deserialize(deserializer)?.into_iter().map(Arc::new).collect())
    }
}
