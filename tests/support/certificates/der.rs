//! Writes DER, valid and invalid.

pub(crate) fn validity(not_before: &[u8], not_after: &[u8]) -> Vec<u8> {
    sequence(&[not_before, not_after])
}

pub(crate) fn utc_time(time: &str) -> Vec<u8> {
    element(0x17, time.as_bytes())
}

pub(crate) fn generalized_time(time: &[u8]) -> Vec<u8> {
    element(0x18, time)
}

pub(crate) fn object_identifier(contents: &[u8]) -> Vec<u8> {
    element(0x06, contents)
}

pub(crate) fn integer(contents: &[u8]) -> Vec<u8> {
    element(0x02, contents)
}

pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], bytes].concat())
}

pub(crate) fn sequence(elements: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, &elements.concat())
}

pub(crate) fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut element = vec![tag];
    match length {
        0..=0x7f => element.push(length as u8),
        0x80..=0xff => element.extend([0x81, length as u8]),
        0x100..=0xffff => element.extend([0x82, (length >> 8) as u8, length as u8]),
        _ => element.extend([
            0x83,
            (length >> 16) as u8,
            (length >> 8) as u8,
            length as u8,
        ]),
    }
    element.extend(contents);
    element
}

/// The contents of an element that is well formed.
pub(crate) fn contents(element: &[u8]) -> &[u8] {
    match element[1] {
        0..=0x7f => &element[2..],
        length => &element[2 + usize::from(length & 0x7f)..],
    }
}

pub(crate) fn hex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub(crate) const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
pub(crate) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
pub(crate) const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];

pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const NULL: &[u8] = &[0x05, 0x00];
