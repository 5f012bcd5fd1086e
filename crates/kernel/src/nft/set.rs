//! Sets and maps: their types, and elements as keys and intervals.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use strait_host::nft::{Element, ElementType, Set};

use crate::error::Error;
use crate::nft::message::{
    DATA_VALUE, ELEMENT_DATA, ELEMENT_FLAGS, ELEMENT_KEY, LIST_ELEMENT, SET_DATA_LENGTH,
    SET_DATA_TYPE, SET_FLAGS, SET_KEY_LENGTH, SET_KEY_TYPE, SET_USERDATA,
};
use crate::nft::statement::{NAME, name_bytes};
use crate::wire::{Attrs, Request, be32_of, ip_of, octets, text_of};

/// `NFT_SET_ELEM_INTERVAL_END`.
const END: u32 = 1;
/// Flags of sets that we write or that change nothing (`NFT_SET_CONSTANT`).
const INTERVAL: u32 = libc::NFT_SET_INTERVAL as u32;
const MAP: u32 = libc::NFT_SET_MAP as u32;
const CONSTANT: u32 = libc::NFT_SET_CONSTANT as u32;

const TYPES: [ElementType; 5] = [
    ElementType::Ipv4,
    ElementType::Ipv6,
    ElementType::Name,
    ElementType::Port,
    ElementType::Mark,
];

/// nft's number of a type (`enum datatypes` in nftables' include/datatype.h), and its length in bytes.
fn number(kind: ElementType) -> (u32, u32) {
    match kind {
        ElementType::Ipv4 => (7, 4),
        ElementType::Ipv6 => (8, 16),
        ElementType::Port => (13, 2),
        ElementType::Mark => (19, 4),
        ElementType::Name => (41, NAME as u32),
    }
}

/// Tells `nft list` in which byte order keys and values are: libnftnl's `NFTNL_UDATA_SET_KEYBYTEORDER` and
/// `…_DATABYTEORDER`, of 4 bytes in host order each; 1 is host order, 2 network order.
fn userdata(set: &Set) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, kind) in [(0, Some(set.keys)), (1, set.values)] {
        let order: u32 = match kind {
            None => continue,
            Some(ElementType::Mark | ElementType::Name) => 1,
            Some(ElementType::Ipv4 | ElementType::Ipv6 | ElementType::Port) => 2,
        };
        bytes.extend_from_slice(&[tag, 4]);
        bytes.extend_from_slice(&order.to_ne_bytes());
    }
    bytes
}

/// Appends the type of a set.
pub(super) fn encode_type(request: &mut Request, set: &Set) {
    let mut flags = 0;
    if set.interval {
        flags |= INTERVAL;
    }
    if set.values.is_some() {
        flags |= MAP;
    }
    let (kind, len) = number(set.keys);
    request
        .be32(SET_FLAGS, flags)
        .be32(SET_KEY_TYPE, kind)
        .be32(SET_KEY_LENGTH, len);
    if let Some(values) = set.values {
        let (kind, len) = number(values);
        request.be32(SET_DATA_TYPE, kind).be32(SET_DATA_LENGTH, len);
    }
    request.attr(SET_USERDATA, &userdata(set));
}

/// Reads the type of a set; `None` is one that we never write.
pub(super) fn decode_type(attrs: Attrs<'_>) -> Option<Set> {
    let find = |kind| attrs.find(kind).and_then(be32_of);
    let flags = find(SET_FLAGS).unwrap_or_default();
    if flags & !(INTERVAL | MAP | CONSTANT) != 0 {
        return None;
    }
    let element = |kind, len| {
        let both = (find(kind)?, find(len)?);
        TYPES.into_iter().find(|t| number(*t) == both)
    };
    let keys = element(SET_KEY_TYPE, SET_KEY_LENGTH)?;
    let interval = flags & INTERVAL != 0;
    let is_address = matches!(keys, ElementType::Ipv4 | ElementType::Ipv6);
    if interval && !is_address {
        return None;
    }
    let values = if flags & MAP == 0 {
        None
    } else {
        Some(element(SET_DATA_TYPE, SET_DATA_LENGTH)?)
    };
    Some(Set {
        keys,
        interval,
        values,
        elements: BTreeMap::new(),
    })
}

/// An element in the kernel's form: a key, or one end of an interval.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Raw {
    key: Vec<u8>,
    /// Ends sort before starts: at the border of two adjacent intervals, one ends before the other begins.
    is_start: bool,
    value: Option<Vec<u8>>,
}

impl Raw {
    /// Appends it to a list of elements.
    pub(super) fn encode(&self, list: &mut Request) {
        list.nest(LIST_ELEMENT, |element| {
            if !self.is_start {
                element.be32(ELEMENT_FLAGS, END);
            }
            element.nest(ELEMENT_KEY, |key| {
                key.attr(DATA_VALUE, &self.key);
            });
            if let Some(value) = &self.value {
                element.nest(ELEMENT_DATA, |data| {
                    data.attr(DATA_VALUE, value);
                });
            }
        });
    }

    /// Reads an element; `None` is one that we never write (a catch-all, a verdict, a key with an end).
    pub(super) fn decode(element: Attrs<'_>) -> Option<Self> {
        let flags = element
            .find(ELEMENT_FLAGS)
            .and_then(be32_of)
            .unwrap_or_default();
        if flags & !END != 0 {
            return None;
        }
        let value = |kind| Some(element.inside(kind)?.find(DATA_VALUE)?.to_vec());
        Some(Self {
            key: value(ELEMENT_KEY)?,
            is_start: flags & END == 0,
            value: value(ELEMENT_DATA),
        })
    }
}

/// An element of a set in the kernel's form: for an interval, where it starts and the first key behind it.
pub(super) fn lower(set: &Set, key: &Element, value: Option<&Element>) -> Result<Vec<Raw>, Error> {
    let bad = || Error::Unsupported(format!("{key:?} in a set of {:?}", set.keys));
    let value = match (value, set.values) {
        (None, _) => None,
        (Some(value), Some(kind)) => Some(bytes(kind, value)?),
        (Some(_), None) => return Err(bad()),
    };
    if !set.interval {
        return Ok(vec![Raw {
            key: bytes(set.keys, key)?,
            is_start: true,
            value,
        }]);
    }
    let (first, last) = match key {
        Element::Net(net) => (net.network(), net.broadcast()),
        Element::Range(first, last) => (*first, *last),
        Element::Ip(_) | Element::Name(_) | Element::Port(_) | Element::Mark(_) => {
            return Err(bad());
        }
    };
    let start = bytes(set.keys, &Element::Ip(first))?;
    let mut behind = bytes(set.keys, &Element::Ip(last))?;
    if behind < start {
        return Err(bad());
    }
    let mut all = vec![Raw {
        key: start,
        is_start: true,
        value,
    }];
    // An interval up to the last key has no end.
    if increment(&mut behind) {
        all.push(Raw {
            key: behind,
            is_start: false,
            value: None,
        });
    }
    Ok(all)
}

/// Whether there was a next key.
fn increment(key: &mut [u8]) -> bool {
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return true;
        }
    }
    false
}

fn decrement(key: &mut [u8]) {
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != u8::MAX {
            return;
        }
    }
}

fn bytes(kind: ElementType, element: &Element) -> Result<Vec<u8>, Error> {
    match (kind, element) {
        (ElementType::Ipv4, Element::Ip(ip @ IpAddr::V4(_)))
        | (ElementType::Ipv6, Element::Ip(ip @ IpAddr::V6(_))) => Ok(octets(*ip)),
        (ElementType::Name, Element::Name(name)) => name_bytes(name),
        (ElementType::Port, Element::Port(port)) => Ok(port.to_be_bytes().to_vec()),
        (ElementType::Mark, Element::Mark(mark)) => Ok(mark.to_ne_bytes().to_vec()),
        (_, element) => Err(Error::Unsupported(format!(
            "{element:?} as an element of type {kind:?}"
        ))),
    }
}

fn element(kind: ElementType, bytes: &[u8]) -> Option<Element> {
    match kind {
        ElementType::Ipv4 | ElementType::Ipv6 => ip_of(bytes).map(Element::Ip),
        ElementType::Name => Some(Element::Name(text_of(bytes))),
        ElementType::Port => Some(Element::Port(u16::from_be_bytes(bytes.try_into().ok()?))),
        ElementType::Mark => Some(Element::Mark(u32::from_ne_bytes(bytes.try_into().ok()?))),
    }
}

/// Reads a set's elements, in whatever order they come; `None` if one does not fit the set's type.
pub(super) fn raise(set: &Set, mut raw: Vec<Raw>) -> Option<BTreeMap<Element, Option<Element>>> {
    raw.sort();
    let value = |raw: &Raw| match (&raw.value, set.values) {
        (Some(bytes), Some(kind)) => element(kind, bytes).map(Some),
        (None, None) => Some(None),
        _ => None,
    };
    if !set.interval {
        let one = |raw: &Raw| Some((element(set.keys, &raw.key)?, value(raw)?));
        return raw.iter().map(one).collect();
    }
    let mut elements = BTreeMap::new();
    let mut rest = raw.as_slice();
    while let [first, behind @ ..] = rest {
        rest = behind;
        // An end without a start: nft writes one at the lowest key, in front of a gap.
        if !first.is_start {
            continue;
        }
        let last = match behind.first() {
            Some(next) => {
                let mut last = next.key.clone();
                decrement(&mut last);
                last
            }
            None => vec![u8::MAX; first.key.len()],
        };
        elements.insert(range(ip_of(&first.key)?, ip_of(&last)?)?, value(first)?);
    }
    Some(elements)
}

/// A prefix where it is one, else a range.
fn range(first: IpAddr, last: IpAddr) -> Option<Element> {
    let (width, shared) = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (32, (a.to_bits() ^ b.to_bits()).leading_zeros()),
        (IpAddr::V6(a), IpAddr::V6(b)) => (128, (a.to_bits() ^ b.to_bits()).leading_zeros()),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let net = IpNet::new(first, u8::try_from(shared.min(width)).ok()?).ok()?;
    Some(if net.network() == first && net.broadcast() == last {
        Element::Net(net)
    } else {
        Element::Range(first, last)
    })
}

#[cfg(test)]
mod tests {
    use strait_host::Family;

    use super::*;

    fn there_and_back(family: Family, nets: &[&str]) {
        let nets: Vec<IpNet> = nets.iter().map(|n| n.parse().unwrap()).collect();
        let set = Set::of_nets(family, &nets);
        let lowered = set.elements.iter().map(|(k, v)| lower(&set, k, v.as_ref()));
        let mut raw: Vec<Raw> = lowered.flat_map(Result::unwrap).collect();
        assert_eq!(raise(&set, raw.clone()).unwrap(), set.elements);
        raw.reverse();
        assert_eq!(raise(&set, raw).unwrap(), set.elements);
    }

    #[test]
    fn prefixes_survive_as_intervals_in_any_order() {
        there_and_back(Family::V4, &["0.0.0.0/0"]);
        there_and_back(Family::V6, &["::/0"]);
        there_and_back(Family::V4, &["255.255.255.0/24", "0.0.0.0/32"]);
        there_and_back(Family::V4, &["255.255.255.255/32", "0.0.0.0/1"]);
        // Adjacent, but no common prefix.
        there_and_back(Family::V4, &["10.0.1.0/24", "10.0.2.0/24", "10.0.4.0/24"]);
        there_and_back(Family::V6, &["fd00::/8", "ff00::/8", "2001:db8::/32"]);
    }

    #[test]
    fn a_range_that_is_no_prefix_stays_a_range() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            range(ip("10.0.0.1"), ip("10.0.0.2")),
            Some(Element::Range(ip("10.0.0.1"), ip("10.0.0.2")))
        );
        assert_eq!(
            range(ip("::"), ip("::1")),
            Some(Element::Net("::/127".parse().unwrap()))
        );
    }

    #[test]
    fn an_element_of_another_type_is_refused() {
        let set = Set::of_nets(Family::V4, &[]);
        for bad in [
            Element::Net("fd00::/8".parse().unwrap()),
            Element::Port(1),
            Element::Range([10, 0, 0, 2].into(), [10, 0, 0, 1].into()),
        ] {
            assert!(lower(&set, &bad, None).is_err(), "{bad:?}");
        }
        let names = Set::of_names(["eth0"]);
        let long = Element::Name("a-name-too-long-for-a-link".to_owned());
        assert!(lower(&names, &long, None).is_err());
    }
}
