//! Thrift's compact protocol, as far as parquet has it: a footer and the heads of pages, out of bytes that may be anything.
//!
//! Strict: numbers of their type, lists that are as long as they say, structs that are not deep. What is read here is
//! read alike by readers that look away at such things.
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

use parquet::errors::{ParquetError, Result};

/// The most structs and lists in each other: parquet's have fewer than ten.
const MAX_DEPTH: usize = 24;

/// The type of a value. Integers of 16, 32 and 64 bits are written alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    True,
    False,
    Byte,
    Int,
    Double,
    Binary,
    List,
    Struct,
}

/// The type that the values of a field have, and what is in them.
pub enum Shape {
    Bool,
    Byte,
    Int,
    Double,
    Binary,
    List(&'static Shape),
    /// Fields by their ids. Others may be there, of any type.
    Struct(&'static [(i16, Shape)]),
}

/// Values one after another.
#[derive(Clone)]
pub struct Thrift<'a>(&'a [u8]);

/// The error for bytes that are not what parquet writes.
pub fn broken(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

impl Kind {
    fn new(code: u8) -> Result<Self> {
        Ok(match code {
            1 => Self::True,
            2 => Self::False,
            3 => Self::Byte,
            4..=6 => Self::Int,
            7 => Self::Double,
            8 => Self::Binary,
            9 => Self::List,
            12 => Self::Struct,
            _ => return Err(broken("a value of a type that parquet does not have")),
        })
    }
}

impl<'a> Thrift<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes that are left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let taken = usize::try_from(n).ok().and_then(|n| self.0.split_at_checked(n));
        let (taken, rest) = taken.ok_or_else(|| broken("a value goes on past the end"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(broken("a number of more than 64 bits"))
    }

    /// An integer, whose type is `kind`.
    pub fn int(&mut self, kind: Kind) -> Result<i64> {
        expect(kind, Kind::Int)?;
        let number = self.varint()?;
        // Zigzag: the sign is the lowest bit.
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    /// Bytes, whose type is `kind`.
    pub fn binary(&mut self, kind: Kind) -> Result<&'a [u8]> {
        expect(kind, Kind::Binary)?;
        let len = self.varint()?;
        self.take(len)
    }

    /// The head of a list, whose type is `kind`: the type and the number of its values, each of which has a byte at
    /// least.
    pub fn list(&mut self, kind: Kind) -> Result<(Kind, usize)> {
        expect(kind, Kind::List)?;
        let head = self.byte()?;
        if head == 0 {
            return Ok((Kind::Byte, 0));
        }
        let len = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        let of = Kind::new(head & 15)?;
        if matches!(of, Kind::True | Kind::False) {
            // Readers do not agree on whether such a value has a byte.
            return Err(broken("a list of truths, which parquet does not have here"));
        }
        let len = usize::try_from(len).ok().filter(|&len| len <= self.0.len());
        Ok((of, len.ok_or_else(|| broken("a list claims more values than there are bytes"))?))
    }

    /// Shows each field of a struct, its id and its type, to `each`, which takes the value.
    pub fn fields(&mut self, mut each: impl FnMut(&mut Self, i16, Kind) -> Result<()>) -> Result<()> {
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            if head & 15 == 0 {
                return Ok(());
            }
            let kind = Kind::new(head & 15)?;
            let next = match head >> 4 {
                0 => i16::try_from(self.int(Kind::Int)?).ok(),
                step => id.checked_add(i16::from(step)),
            };
            id = next.ok_or_else(|| broken("a field of an id that none can have"))?;
            each(self, id, kind)?;
        }
    }

    /// Takes a value of the type `kind`, whatever is in it.
    pub fn skip(&mut self, kind: Kind) -> Result<()> {
        self.skip_at(kind, MAX_DEPTH)
    }

    fn skip_at(&mut self, kind: Kind, depth: usize) -> Result<()> {
        let depth = deeper(depth)?;
        match kind {
            Kind::True | Kind::False => Ok(()),
            Kind::Byte => self.byte().map(drop),
            Kind::Int => self.varint().map(drop),
            Kind::Double => self.take(8).map(drop),
            Kind::Binary => self.binary(kind).map(drop),
            Kind::List => {
                let (of, len) = self.list(kind)?;
                (0..len).try_for_each(|_| self.skip_at(of, depth))
            }
            Kind::Struct => self.fields(|values, _, kind| values.skip_at(kind, depth)),
        }
    }

    /// Takes a value of the type `kind`, which must be as `shape`.
    pub fn check(&mut self, kind: Kind, shape: &Shape) -> Result<()> {
        self.check_at(kind, shape, MAX_DEPTH)
    }

    fn check_at(&mut self, kind: Kind, shape: &Shape, depth: usize) -> Result<()> {
        let inner = deeper(depth)?;
        match shape {
            Shape::List(shape) => {
                let (of, len) = self.list(kind)?;
                (0..len).try_for_each(|_| self.check_at(of, shape, inner))
            }
            Shape::Struct(known) => {
                expect(kind, Kind::Struct)?;
                self.fields(|values, id, kind| match known.iter().find(|(known, _)| *known == id) {
                    Some((_, shape)) => values.check_at(kind, shape, inner),
                    None => values.skip_at(kind, inner),
                })
            }
            Shape::Bool if kind == Kind::False => Ok(()),
            Shape::Bool => expect(kind, Kind::True),
            Shape::Byte => expect(kind, Kind::Byte).and_then(|()| self.skip_at(kind, depth)),
            Shape::Int => self.int(kind).map(drop),
            Shape::Double => expect(kind, Kind::Double).and_then(|()| self.skip_at(kind, depth)),
            Shape::Binary => self.binary(kind).map(drop),
        }
    }

    /// The numbers and truths of a struct, whose type is `kind`, by their ids below `N`.
    pub fn numbers<const N: usize>(&mut self, kind: Kind) -> Result<[Option<i32>; N]> {
        expect(kind, Kind::Struct)?;
        let mut numbers = [None; N];
        self.fields(|values, id, kind| {
            let Some(number) = usize::try_from(id).ok().and_then(|id| numbers.get_mut(id)) else {
                return values.skip(kind);
            };
            *number = match kind {
                Kind::True => Some(1),
                Kind::False => Some(0),
                Kind::Int => {
                    let found = i32::try_from(values.int(kind)?);
                    Some(found.map_err(|_| broken("a number of more than 32 bits"))?)
                }
                _ => return values.skip(kind),
            };
            Ok(())
        })?;
        Ok(numbers)
    }
}

/// Fails where a value has another type than it must have.
fn expect(found: Kind, expected: Kind) -> Result<()> {
    if found == expected { Ok(()) } else { Err(broken("a value of another type than it has in parquet")) }
}

fn deeper(depth: usize) -> Result<usize> {
    depth.checked_sub(1).ok_or_else(|| broken("too many structs and lists in each other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_zigzag() {
        let int = |bytes: &[u8]| Thrift::new(bytes).int(Kind::Int).ok();
        assert_eq!([&[0][..], &[1], &[2], &[0x96, 0x01]].map(int), [0, -1, 1, 75].map(Some));
        let mut most = [0xff_u8; 10];
        most[9] = 1;
        assert_eq!(int(&most), Some(i64::MIN));
        most[9] = 2;
        assert_eq!([&most[..], &[0x80], &[0xff; 11], &[]].map(int), [None; 4]);
    }

    #[test]
    fn fields_come_with_their_ids_and_types() {
        // 1: 5; 2: true; 40: "ab"; 41: [1, 2]; and one that nobody asks for.
        let bytes = [0x15, 10, 0x11, 0x08, 80, 2, b'a', b'b', 0x19, 0x25, 2, 4, 0x13, 9, 0, 77];
        let mut seen = Vec::new();
        let mut values = Thrift::new(&bytes);
        values
            .fields(|values, id, kind| {
                seen.push((id, kind));
                values.skip(kind)
            })
            .unwrap();
        let expected = [(1, Kind::Int), (2, Kind::True), (40, Kind::Binary), (41, Kind::List), (42, Kind::Byte)];
        assert_eq!((seen, values.rest()), (expected.to_vec(), &[77][..]));
        let numbers = Thrift::new(&bytes).numbers::<3>(Kind::Struct).unwrap();
        assert_eq!(numbers, [None, Some(5), Some(1)]);
        for cut in 0..bytes.len() - 1 {
            assert!(Thrift::new(&bytes[..cut]).skip(Kind::Struct).is_err());
        }
    }

    #[test]
    fn claims_are_held_against_what_is_there() {
        let skip = |kind, bytes: &[u8]| Thrift::new(bytes).skip(kind).map_err(|e| e.to_string()).err();
        let says = |found: Option<String>, what: &str| assert!(found.is_some_and(|text| text.contains(what)));
        says(skip(Kind::List, &[0xf5, 0xff, 0xff, 0x03, 0]), "more values than there are bytes");
        says(skip(Kind::List, &[0x21, 1, 1]), "a list of truths");
        says(skip(Kind::Binary, &[9, 0]), "past the end");
        says(skip(Kind::Struct, &[0x1b, 0]), "a type that parquet does not have");
        says(skip(Kind::List, &[0x19; 40]), "in each other");
        assert_eq!(skip(Kind::List, &[0]), None);
        let shape = Shape::Struct(&[(1, Shape::Int), (2, Shape::List(&Shape::Binary)), (3, Shape::Bool)]);
        let check = |bytes: &[u8]| Thrift::new(bytes).check(Kind::Struct, &shape).is_ok();
        assert!(check(&[0x15, 2, 0x19, 0x18, 1, b'a', 0x12, 0x1c, 0, 0]));
        assert!(!check(&[0x18, 0, 0]) && !check(&[0x15, 2, 0x19, 0x15, 2, 0]) && !check(&[0x35, 2, 0]));
    }
}
