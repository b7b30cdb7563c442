//! Values that all cells of a part share, as the manifest has them: text, numbers and bools by name.
//!
//! A store may have hundreds of thousands of parts, and most have constants of the same names: these are kept once.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

/// A list of names that many parts have in common.
pub type Names = Arc<[String]>;

/// Makes equal lists one list in memory.
pub fn share(names: &mut Names, known: &mut HashSet<Names>) {
    match known.get(names) {
        Some(same) => *names = Arc::clone(same),
        None => drop(known.insert(Arc::clone(names))),
    }
}

/// The constants of one part, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Constants {
    names: Names,
    /// The value of each name.
    values: Box<[Scalar]>,
}

/// A value that all cells share.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    Text(Box<str>),
    Bool(bool),
    Number(Number),
}

impl Constants {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&Scalar> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Scalar)> {
        self.names.iter().map(String::as_str).zip(&*self.values)
    }

    /// Shares the names with other parts that have the same.
    pub fn share_names(&mut self, known: &mut HashSet<Names>) {
        share(&mut self.names, known);
    }
}

impl Serialize for Constants {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.values.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Constants {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ByName;

        impl<'de> Visitor<'de> for ByName {
            type Value = Constants;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("constants by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Constants, A::Error> {
                let (mut names, mut values, mut seen) = (Vec::<String>::new(), Vec::new(), HashSet::new());
                while let Some((name, value)) = map.next_entry::<String, Scalar>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("constant '{name}' is there twice")));
                    }
                    names.push(name);
                    values.push(value);
                }
                Ok(Constants { names: names.into(), values: values.into() })
            }
        }

        from.deserialize_map(ByName)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text, number or bool, as constants are")
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.into()))
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(truth))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number.into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number.into()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
                let number = Number::from_f64(number).ok_or_else(|| E::custom("a number that is not finite"))?;
                Ok(Scalar::Number(number))
            }
        }

        from.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_survive_json_in_their_order() {
        let text = r#"{"z":"text","a":true,"n":-1,"m":18446744073709551615,"x":1.5}"#;
        let constants: Constants = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&constants).unwrap(), text);
        assert_eq!(constants.get("a"), Some(&Scalar::Bool(true)));
        assert_eq!(constants.get("none"), None);
    }

    #[test]
    fn what_is_no_constant_is_refused() {
        for text in [r#"{"a":[1]}"#, r#"{"a":{"b":1}}"#, r#"{"a":null}"#, "[1]", r#"{"a":1,"b":2,"a":3}"#] {
            assert!(serde_json::from_str::<Constants>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn equal_names_are_shared() {
        let mut known = HashSet::new();
        let mut read = |text| {
            let mut constants: Constants = serde_json::from_str(text).unwrap();
            constants.share_names(&mut known);
            constants
        };
        let [a, b, c] = [r#"{"x":1,"y":2}"#, r#"{"x":"p","y":"q"}"#, r#"{"y":1,"x":2}"#].map(&mut read);
        assert!(Arc::ptr_eq(&a.names, &b.names) && !Arc::ptr_eq(&a.names, &c.names));
        assert_eq!(b.get("y"), Some(&Scalar::Text("q".into())));
    }
}
