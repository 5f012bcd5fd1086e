//! What two collections in order don't share: they may hold thousands, and mostly nearly the same.

use std::cmp::Ordering;

/// What only the first yields, and what only the second does. Both must be in order, with nothing twice.
pub(crate) fn unshared<T: Ord>(
    first: impl IntoIterator<Item = T>,
    second: impl IntoIterator<Item = T>,
) -> (Vec<T>, Vec<T>) {
    let mut first = first.into_iter().peekable();
    let mut second = second.into_iter().peekable();
    let (mut of_first, mut of_second) = (Vec::new(), Vec::new());
    loop {
        let order = match (first.peek(), second.peek()) {
            (Some(a), Some(b)) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return (of_first, of_second),
        };
        match order {
            Ordering::Less => of_first.extend(first.next()),
            Ordering::Greater => of_second.extend(second.next()),
            Ordering::Equal => {
                first.next();
                second.next();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_difference_either_way(
            a in proptest::collection::btree_set(0u8..40, 0..30),
            b in proptest::collection::btree_set(0u8..40, 0..30),
        ) {
            let (of_a, of_b) = unshared(&a, &b);
            prop_assert_eq!(of_a, a.difference(&b).collect::<Vec<_>>());
            prop_assert_eq!(of_b, b.difference(&a).collect::<Vec<_>>());
            let none: BTreeSet<u8> = BTreeSet::new();
            prop_assert_eq!(unshared(&none, &none), (Vec::new(), Vec::new()));
        }
    }
}
