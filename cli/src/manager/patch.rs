//! Pieces of merge patches (RFC 7396): objects of what is said, in which null takes away.

use std::str::FromStr;

use serde_json::{Map, Value};

/// A number, or `none` for no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound<T>(pub(super) Option<T>);

impl<T: FromStr> FromStr for Bound<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            _ => match text.parse() {
                Ok(number) => Ok(Self(Some(number))),
                Err(_) => Err("is no number or none".to_owned()),
            },
        }
    }
}

impl<T: Into<Self>> From<Bound<T>> for Value {
    fn from(bound: Bound<T>) -> Self {
        bound.0.map_or(Self::Null, Into::into)
    }
}

/// An object of the fields that are there.
pub(super) fn object<K: Into<String>>(fields: impl IntoIterator<Item = (K, Option<Value>)>) -> Value {
    let there = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.into(), value?)));
    Value::Object(there.collect())
}

/// What a patch makes of nothing: it without its nulls.
pub(super) fn stripped(patch: Value) -> Value {
    match patch {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, stripped(value))).collect::<Map<_, _>>())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_may_be_none() {
        assert_eq!("7".parse(), Ok(Bound(Some(7u16))));
        assert_eq!("none".parse(), Ok(Bound::<u16>(None)));
        for wrong in ["", "-1", "70000", "None", "7k"] {
            assert!(wrong.parse::<Bound<u16>>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_left_of_nulls() {
        let patch = json!({"a":null,"b":{"c":null,"d":[null]},"e":1});
        assert_eq!(stripped(patch), json!({"b":{"d":[null]},"e":1}));
    }
}
