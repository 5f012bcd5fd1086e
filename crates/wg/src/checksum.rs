//! The Internet checksum (RFC 1071).

/// Sums bytes up, in the machine's byte order; what comes after must begin at an even offset.
pub(crate) fn sum(bytes: &[u8], start: u64) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = start;
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total + u64::from(u32::from_ne_bytes(last))
}

/// The sum as 16 bits, as it stands in a packet, not inverted.
pub(crate) fn fold(mut sum: u64) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    // No more than 16 bits are left.
    (sum as u16).to_ne_bytes()
}

/// The checksum of what was summed up.
pub(crate) fn finish(sum: u64) -> [u8; 2] {
    fold(sum).map(|byte| !byte)
}

/// The sum of the pseudo header of TCP or UDP. `addresses`: both, as they stand in the header.
pub(crate) fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    // A transport header and its payload have less than 2^32 bytes.
    let mut tail = [0; 8];
    tail[..4].copy_from_slice(&(length as u32).to_be_bytes());
    tail[7] = protocol;
    sum(&tail, sum(addresses, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_header_has_its_known_checksum() {
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8,
            0, 0xc7,
        ];
        assert_eq!(finish(sum(&header, 0)), [0, 0]);
        let mut without = header;
        without[10..12].fill(0);
        assert_eq!(finish(sum(&without, 0)), [0xb8, 0x61]);
    }

    #[test]
    fn odd_ends_count_as_if_a_zero_followed() {
        for length in 0..9 {
            let bytes = vec![0xab; length];
            let mut padded = bytes.clone();
            padded.resize(12, 0);
            assert_eq!(fold(sum(&bytes, 0)), fold(sum(&padded, 0)));
        }
    }
}
