//! Strict DER: one bounded pass over a certificate before anything interprets it.
//!
//! X.509 libraries accept more than DER allows: bytes after the end, lengths and numbers padded
//! with zeros, explicit defaults. Two parsers may then read the same bytes differently. Here every
//! element at every level must have its only DER encoding, the fields must be those of [RFC 5280
//! §4.1], and depth and number of elements are bounded.
//!
//! [RFC 5280 §4.1]: https://www.rfc-editor.org/rfc/rfc5280#section-4.1

use super::error::CertificateError;

/// The parts of a certificate whose exact bytes matter.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    /// The bytes that the certificate's signature covers.
    pub(super) signed: &'a [u8],
    /// The version number, absent for version 1.
    pub(super) version: Option<&'a [u8]>,
    /// Contents of the signature algorithm inside the signed part.
    pub(super) inner_algorithm: &'a [u8],
    /// The whole SubjectPublicKeyInfo, which the host key signs.
    pub(super) spki: &'a [u8],
    /// Contents of the key's algorithm.
    pub(super) key_algorithm: &'a [u8],
    /// The key.
    pub(super) key: &'a [u8],
    pub(super) has_unique_id: bool,
    /// Contents of the signature algorithm outside the signed part.
    pub(super) outer_algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl<'a> Layout<'a> {
    /// Checks the whole certificate and finds its parts.
    ///
    /// # Errors
    ///
    /// [`CertificateError::BadEncoding`] and [`CertificateError::TooLarge`].
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLarge {
                limit: MAX_CERTIFICATE_BYTES,
                unit: "bytes",
            });
        }
        check_elements(der)?;

        let mut input = Reader::new(der);
        let mut certificate = input.enter(SEQUENCE)?;
        input.finish()?;
        let tbs = certificate.read(SEQUENCE)?;
        let outer_algorithm = algorithm(&mut certificate)?;
        let signature = octets(&mut certificate)?;
        certificate.finish()?;

        let mut fields = Reader::new(tbs.contents);
        let version = match fields.read_if(context(0, CONSTRUCTED))? {
            Some(tagged) => {
                let mut tagged = Reader::new(tagged.contents);
                let version = tagged.read(INTEGER)?.contents;
                tagged.finish()?;
                Some(version)
            }
            None => None,
        };
        let _serial = fields.read(INTEGER)?;
        let inner_algorithm = algorithm(&mut fields)?;
        name(&mut fields)?; // issuer
        validity(&mut fields)?;
        name(&mut fields)?; // subject
        let spki = fields.read(SEQUENCE)?;
        let mut spki_fields = Reader::new(spki.contents);
        let key_algorithm = algorithm(&mut spki_fields)?;
        let key = octets(&mut spki_fields)?;
        spki_fields.finish()?;
        let issuer_id = fields.read_if(context(1, PRIMITIVE))?;
        let subject_id = fields.read_if(context(2, PRIMITIVE))?;
        if let Some(tagged) = fields.read_if(context(3, CONSTRUCTED))? {
            let mut tagged = Reader::new(tagged.contents);
            extensions(tagged.enter(SEQUENCE)?)?;
            tagged.finish()?;
        }
        fields.finish()?;

        Ok(Self {
            signed: tbs.encoded,
            version,
            inner_algorithm,
            spki: spki.encoded,
            key_algorithm,
            key,
            has_unique_id: issuer_id.is_some() || subject_id.is_some(),
            outer_algorithm,
            signature,
        })
    }
}

/// An encoding that is not DER, or not of the expected shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl From<Malformed> for CertificateError {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::BadEncoding { reason }
    }
}

/// One element: its contents, and its whole encoding with tag and length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'a> {
    tag: u8,
    pub(super) contents: &'a [u8],
    encoded: &'a [u8],
}

/// Reads elements one after another at one level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads the next element, which must have this tag.
    pub(super) fn read(&mut self, tag: u8) -> Result<Element<'a>, Malformed> {
        self.read_if(tag)?
            .ok_or(Malformed("a field is missing or of another type"))
    }

    /// Reads the next element, which must have this tag, and returns a reader of its contents.
    pub(super) fn enter(&mut self, tag: u8) -> Result<Self, Malformed> {
        Ok(Self::new(self.read(tag)?.contents))
    }

    /// Reads the next element if it has this tag.
    fn read_if(&mut self, tag: u8) -> Result<Option<Element<'a>>, Malformed> {
        match self.rest.first() {
            Some(next) if *next == tag => self.next().map(Some),
            _ => Ok(None),
        }
    }

    /// Fails if bytes are left.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes follow the last field"))
        }
    }

    /// Reads the next element of any type, with a definite length in its shortest form.
    fn next(&mut self) -> Result<Element<'a>, Malformed> {
        const CUT: Malformed = Malformed("an element is cut off");

        let (&tag, rest) = self.rest.split_first().ok_or(CUT)?;
        if tag & HIGH_TAG == HIGH_TAG {
            return Err(Malformed("a tag number is out of range"));
        }
        let (&first, mut rest) = rest.split_first().ok_or(CUT)?;
        let length = match first {
            0..=0x7f => usize::from(first),
            // 0x80 would be the indefinite form of BER. Lengths of three and more bytes exceed
            // every limit here.
            0x81 | 0x82 => {
                let (bytes, after) = rest
                    .split_at_checked(usize::from(first & 0x7f))
                    .ok_or(CUT)?;
                rest = after;
                let length = bytes
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte));
                if length < 0x80 || bytes.first() == Some(&0) {
                    return Err(Malformed("a length is not in its shortest form"));
                }
                length
            }
            _ => return Err(Malformed("a length is indefinite or out of range")),
        };
        let (contents, after) = rest.split_at_checked(length).ok_or(CUT)?;
        let (encoded, _) = self.rest.split_at(self.rest.len() - after.len());
        self.rest = after;
        Ok(Element {
            tag,
            contents,
            encoded,
        })
    }
}

/// An RSAPublicKey ([RFC 8017 A.1.1]).
///
/// [RFC 8017 A.1.1]: https://www.rfc-editor.org/rfc/rfc8017#appendix-A.1.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RsaPublicKey<'a> {
    pub(super) modulus_bits: usize,
    /// Without leading zeros.
    pub(super) exponent: &'a [u8],
}

impl<'a> RsaPublicKey<'a> {
    pub(super) fn parse(key: &'a [u8]) -> Result<Self, Malformed> {
        let mut input = Reader::new(key);
        let mut fields = input.enter(SEQUENCE)?;
        input.finish()?;
        let modulus = positive(fields.read(INTEGER)?.contents)?;
        let exponent = positive(fields.read(INTEGER)?.contents)?;
        fields.finish()?;
        let unused = modulus.first().map_or(0, |byte| byte.leading_zeros());
        Ok(Self {
            modulus_bits: modulus.len() * 8 - unused as usize,
            exponent,
        })
    }
}

/// The magnitude of an INTEGER that must be positive and minimal, without its sign byte.
fn positive(contents: &[u8]) -> Result<&[u8], Malformed> {
    integer(contents)?;
    match contents {
        [0] | [0x80..=0xff, ..] => Err(Malformed("a number is not positive")),
        [0, magnitude @ ..] => Ok(magnitude),
        magnitude => Ok(magnitude),
    }
}

/// Checks every element at every level, without recursion.
///
/// The contents of octet strings stay opaque: libp2p requires us to ignore unknown extensions,
/// which may contain anything.
fn check_elements(der: &[u8]) -> Result<(), CertificateError> {
    struct Level<'a> {
        reader: Reader<'a>,
        /// The elements of a SET OF are sorted by their encodings.
        previous_in_set: Option<&'a [u8]>,
    }

    let level = |bytes, is_set: bool| Level {
        reader: Reader::new(bytes),
        previous_in_set: is_set.then_some(&[][..]),
    };
    let mut levels = Vec::with_capacity(MAX_DEPTH);
    levels.push(level(der, false));
    while let Some(current) = levels.last_mut() {
        if current.reader.rest.is_empty() {
            levels.pop();
            continue;
        }
        let element = current.reader.next()?;
        if let Some(previous) = &mut current.previous_in_set {
            if *previous > element.encoded {
                return Err(Malformed("a set is not sorted").into());
            }
            *previous = element.encoded;
        }
        if element.tag & CONSTRUCTED == 0 {
            check_primitive(element)?;
        } else if element.tag & CLASS != 0 || matches!(element.tag, SEQUENCE | SET) {
            if levels.len() == MAX_DEPTH {
                return Err(CertificateError::TooLarge {
                    limit: MAX_DEPTH,
                    unit: "levels of nesting",
                });
            }
            levels.push(level(element.contents, element.tag == SET));
        } else {
            return Err(Malformed("a primitive type is constructed").into());
        }
    }
    Ok(())
}

fn check_primitive(element: Element<'_>) -> Result<(), Malformed> {
    let contents = element.contents;
    match element.tag {
        BOOLEAN => match contents {
            [0 | 0xff] => Ok(()),
            _ => Err(Malformed("a boolean is neither 00 nor FF")),
        },
        INTEGER | ENUMERATED => integer(contents),
        BIT_STRING => match contents {
            [0] => Ok(()),
            [unused @ 0..8, .., last] if last.trailing_zeros() >= u32::from(*unused) => Ok(()),
            _ => Err(Malformed("a bit string has undefined bits")),
        },
        NULL if contents.is_empty() => Ok(()),
        NULL => Err(Malformed("a null is not empty")),
        OBJECT_IDENTIFIER => object_identifier(contents),
        UTC_TIME => time(contents, "YYMMDDHHMMSSZ".len()),
        GENERALIZED_TIME => time(contents, "YYYYMMDDHHMMSSZ".len()),
        // Characters are not checked, because nobody reads the names of a libp2p certificate.
        OCTET_STRING
        | UTF8_STRING
        | NUMERIC_STRING..=IA5_STRING
        | VISIBLE_STRING
        | UNIVERSAL_STRING
        | BMP_STRING => Ok(()),
        tag if tag & CLASS != 0 => Ok(()),
        _ => Err(Malformed("a type does not belong in certificates")),
    }
}

fn integer(contents: &[u8]) -> Result<(), Malformed> {
    match contents {
        [] => Err(Malformed("a number is empty")),
        [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..] => {
            Err(Malformed("a number is not in its shortest form"))
        }
        _ => Ok(()),
    }
}

fn object_identifier(contents: &[u8]) -> Result<(), Malformed> {
    // Components are in base 128; all bytes of a component except the last have the top bit set. A
    // component that begins with 0x80 has a leading zero.
    let mut begins = true;
    for byte in contents {
        if begins && *byte == 0x80 {
            return Err(Malformed(
                "an object identifier is not in its shortest form",
            ));
        }
        begins = *byte & 0x80 == 0;
    }
    if contents.is_empty() || !begins {
        return Err(Malformed("an object identifier is cut off"));
    }
    Ok(())
}

/// Checks a time: both types have seconds and end with Z ([RFC 5280 §4.1.2.5.1]).
///
/// [RFC 5280 §4.1.2.5.1]: https://www.rfc-editor.org/rfc/rfc5280#section-4.1.2.5.1
fn time(contents: &[u8], length: usize) -> Result<(), Malformed> {
    match contents.split_last() {
        Some((b'Z', digits))
            if contents.len() == length && digits.iter().all(u8::is_ascii_digit) =>
        {
            Ok(())
        }
        _ => Err(Malformed("a time is not of the form that X.509 requires")),
    }
}

/// Returns the contents of AlgorithmIdentifier ::= SEQUENCE { OBJECT IDENTIFIER, parameters ANY
/// OPTIONAL }
fn algorithm<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let sequence = fields.read(SEQUENCE)?;
    let mut inside = Reader::new(sequence.contents);
    inside.read(OBJECT_IDENTIFIER)?;
    if !inside.rest.is_empty() {
        inside.next()?;
    }
    inside.finish()?;
    Ok(sequence.contents)
}

/// Name ::= SEQUENCE OF SET OF SEQUENCE { OBJECT IDENTIFIER, ANY }
fn name(fields: &mut Reader<'_>) -> Result<(), Malformed> {
    let mut names = fields.enter(SEQUENCE)?;
    while !names.rest.is_empty() {
        let mut attributes = names.enter(SET)?;
        while !attributes.rest.is_empty() {
            let mut attribute = attributes.enter(SEQUENCE)?;
            attribute.read(OBJECT_IDENTIFIER)?;
            attribute.next()?;
            attribute.finish()?;
        }
    }
    Ok(())
}

/// Validity ::= SEQUENCE { notBefore Time, notAfter Time }
fn validity(fields: &mut Reader<'_>) -> Result<(), Malformed> {
    let mut validity = fields.enter(SEQUENCE)?;
    for _ in 0..2 {
        if validity.read_if(UTC_TIME)?.is_none() {
            validity.read(GENERALIZED_TIME)?;
        }
    }
    validity.finish()
}

/// Extension ::= SEQUENCE { OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, OCTET STRING }
fn extensions(mut extensions: Reader<'_>) -> Result<(), CertificateError> {
    let mut count = 0;
    while !extensions.rest.is_empty() {
        count += 1;
        if count > MAX_EXTENSIONS {
            return Err(CertificateError::TooLarge {
                limit: MAX_EXTENSIONS,
                unit: "extensions",
            });
        }
        let mut extension = extensions.enter(SEQUENCE)?;
        extension.read(OBJECT_IDENTIFIER)?;
        if let Some(critical) = extension.read_if(BOOLEAN)?
            && critical.contents == [0]
        {
            return Err(Malformed("a default value is spelled out").into());
        }
        extension.read(OCTET_STRING)?;
        extension.finish()?;
    }
    Ok(())
}

/// A BIT STRING of whole bytes, such as a key or a signature.
fn octets<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    match fields.read(BIT_STRING)?.contents {
        [0, octets @ ..] => Ok(octets),
        _ => Err(Malformed("a bit string does not hold whole bytes")),
    }
}

const fn context(number: u8, form: u8) -> u8 {
    0x80 | form | number
}

/// A libp2p certificate with a P-256 key takes about 450 bytes. One with RSA keys of 4096 bits,
/// both as host key and as certificate key, takes less than 3 KiB.
pub(super) const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// libp2p needs one extension. Others are ignored and only cost time.
pub(super) const MAX_EXTENSIONS: usize = 32;
/// A name in a certificate is seven levels deep, and the parameters of RSA-PSS eight.
const MAX_DEPTH: usize = 16;

const CLASS: u8 = 0xc0;
const PRIMITIVE: u8 = 0;
const CONSTRUCTED: u8 = 0x20;
const HIGH_TAG: u8 = 0x1f;

const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VISIBLE_STRING: u8 = 0x1a;
const UNIVERSAL_STRING: u8 = 0x1c;
const BMP_STRING: u8 = 0x1e;
pub(super) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shortest_definite_length_is_read() {
        for bytes in [
            &[0x04][..],
            &[0x04, 0x01],
            &[0x04, 0x80, 0x00, 0x00],
            &[0x04, 0x81],
            &[0x04, 0x81, 0x01, 0xaa],
            &[0x04, 0x82, 0x00, 0x80],
            &[0x04, 0x83, 0x01, 0x00, 0x00],
            &[0x04, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x04, 0xff],
            &[0x1f, 0x04, 0x00],
        ] {
            assert!(Reader::new(bytes).next().is_err(), "{bytes:02x?}");
        }
        let mut long = vec![0x04, 0x81, 0x80];
        long.extend([7; 0x80]);
        assert_eq!(Reader::new(&long).next().unwrap().contents, [7; 0x80]);
    }

    #[test]
    fn each_type_has_one_encoding() {
        for bytes in [
            &[BOOLEAN, 1, 1][..],
            &[BOOLEAN, 0],
            &[INTEGER, 0],
            &[INTEGER, 2, 0, 1],
            &[INTEGER, 2, 0xff, 0x80],
            &[ENUMERATED, 2, 0, 0],
            &[BIT_STRING, 0],
            &[BIT_STRING, 1, 1],
            &[BIT_STRING, 2, 8, 0],
            &[BIT_STRING, 2, 1, 1],
            &[NULL, 1, 0],
            &[OBJECT_IDENTIFIER, 0],
            &[OBJECT_IDENTIFIER, 2, 0x80, 1],
            &[OBJECT_IDENTIFIER, 3, 1, 0x80, 1],
            &[OBJECT_IDENTIFIER, 1, 0x81],
            &[0x24, 0],
            &[0x10, 0],
            &[0x00, 0],
            &[0x09, 1, 0],
            &[SET, 6, INTEGER, 1, 2, INTEGER, 1, 1],
            b"\x17\x0b2001010000Z",
            b"\x17\x0d200101000000+",
            b"\x17\x11200101000000+0000",
            b"\x18\x0d202001010000Z",
            b"\x18\x1120200101000000.5Z",
        ] {
            assert!(check_elements(bytes).is_err(), "{bytes:02x?}");
        }
        for bytes in [
            &[BOOLEAN, 1, 0xff][..],
            &[INTEGER, 1, 0],
            &[INTEGER, 2, 0, 0x80],
            &[INTEGER, 2, 0xff, 0x7f],
            &[BIT_STRING, 1, 0],
            &[BIT_STRING, 2, 1, 2],
            &[NULL, 0],
            &[OBJECT_IDENTIFIER, 3, 1, 0x81, 0],
            &[SET, 6, INTEGER, 1, 1, INTEGER, 1, 2],
            &[0xa0, 2, 0x80, 0],
            b"\x17\x0d200101000000Z",
            b"\x18\x0f20200101000000Z",
        ] {
            assert_eq!(check_elements(bytes), Ok(()), "{bytes:02x?}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| {
            (0..depth).fold(Vec::new(), |inside: Vec<u8>, _| {
                let mut outside = vec![SEQUENCE, inside.len() as u8];
                outside.extend(inside);
                outside
            })
        };
        assert_eq!(check_elements(&nested(MAX_DEPTH - 1)), Ok(()));
        assert!(matches!(
            check_elements(&nested(MAX_DEPTH)),
            Err(CertificateError::TooLarge { .. })
        ));
    }

    #[test]
    fn modulus_is_measured_in_bits() {
        let bits = |key: &[u8]| RsaPublicKey::parse(key).map(|key| key.modulus_bits);
        let key = |modulus: &[u8]| {
            let mut key = vec![SEQUENCE, modulus.len() as u8 + 5, INTEGER];
            key.push(modulus.len() as u8);
            key.extend(modulus);
            key.extend([INTEGER, 1, 3]);
            key
        };
        assert_eq!(bits(&key(&[1])), Ok(1));
        assert_eq!(bits(&key(&[0, 0x80])), Ok(8));
        assert_eq!(bits(&key(&[1, 0])), Ok(9));
        for modulus in [&[][..], &[0], &[0, 1], &[0x80]] {
            assert!(bits(&key(modulus)).is_err(), "{modulus:02x?}");
        }
    }
}
