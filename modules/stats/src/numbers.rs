//! The numbers at the top level of a JSON object, without building the object.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Names and values of the fields that are numbers, in their order; none when `record` is no JSON object.
///
/// Collected before any is used, so that a record that turns out to be broken has counted for nothing.
pub(crate) fn top_level(record: &[u8]) -> Vec<(Cow<'_, str>, f64)> {
    serde_json::from_slice(record).map_or_else(|_| Vec::new(), |Numbers(numbers)| numbers)
}

struct Numbers<'a>(Vec<(Cow<'a, str>, f64)>);

impl<'de> Deserialize<'de> for Numbers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Numbers<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Numbers<'de>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(Name(name)) = fields.next_key()? {
            if let Field(Some(value)) = fields.next_value()? {
                numbers.push((name, value));
            }
        }
        Ok(Numbers(numbers))
    }
}

/// A field's name, borrowed from the record unless it has escapes. (`Cow` itself would always copy.)
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A field's value if it is a number.
struct Field(Option<f64>);

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_u64<E>(self, value: u64) -> Result<Field, E> {
        Ok(Field(Some(value as f64)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Field, E> {
        Ok(Field(Some(value as f64)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Field, E> {
        Ok(Field(Some(value)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(Field(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Field, E> {
        Ok(Field(None))
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Field, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field(None))
    }
}
