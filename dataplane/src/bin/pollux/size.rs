//! Byte counts as people write them: `4096`, `4k`, `128KiB`, `1G`. Every suffix is a power of 1024, as in fio.

use std::fmt;
use std::str::FromStr;

/// A number of bytes given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteCount(pub(crate) u64);

/// Why a text is no byte count.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ByteCountError {
    /// The text does not begin with digits.
    #[error("expected a number with an optional suffix k, M, G or T (powers of 1024), got '{0}'")]
    NotANumber(String),
    /// The suffix is not known.
    #[error("unknown size suffix '{suffix}' in '{text}': use k, M, G or T (powers of 1024)")]
    UnknownSuffix { text: String, suffix: String },
    /// More than 2^64 - 1 bytes.
    #[error("'{0}' is more than 2^64 bytes")]
    TooLarge(String),
}

impl FromStr for ByteCount {
    type Err = ByteCountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, suffix) = text.split_at(digits_end);
        if digits.is_empty() {
            return Err(ByteCountError::NotANumber(text.to_owned()));
        }
        let number: u64 = digits.parse().map_err(|_| ByteCountError::TooLarge(text.to_owned()))?;
        let shift = match suffix.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => {
                return Err(ByteCountError::UnknownSuffix {
                    text: text.to_owned(),
                    suffix: suffix.to_owned(),
                });
            }
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| ByteCountError::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for ByteCount {
    /// The largest binary unit that keeps at least one digit before the point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            let one = 1u64 << shift;
            if self.0 >= one {
                let (whole, rest) = (self.0 / one, self.0 % one);
                return match rest {
                    0 => write!(f, "{whole} {unit}"),
                    _ => write!(f, "{whole}.{:02} {unit}", u128::from(rest) * 100 / u128::from(one)),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("4k", 4096), ("128KiB", 131_072), ("1G", 1 << 30), ("2t", 2 << 40)]
        {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
    }

    #[test]
    fn malformed_counts_are_refused_with_their_text() {
        assert_eq!("k".parse::<ByteCount>(), Err(ByteCountError::NotANumber("k".into())));
        assert_eq!(
            "4x".parse::<ByteCount>(),
            Err(ByteCountError::UnknownSuffix { text: "4x".into(), suffix: "x".into() })
        );
        assert_eq!("17000000t".parse::<ByteCount>(), Err(ByteCountError::TooLarge("17000000t".into())));
        assert_eq!(
            "99999999999999999999".parse::<ByteCount>(),
            Err(ByteCountError::TooLarge("99999999999999999999".into()))
        );
    }

    #[test]
    fn counts_print_in_the_largest_unit_that_fits() {
        assert_eq!(ByteCount(512).to_string(), "512 B");
        assert_eq!(ByteCount(4096).to_string(), "4 KiB");
        assert_eq!(ByteCount(1536).to_string(), "1.50 KiB");
        assert_eq!(ByteCount(3 << 30).to_string(), "3 GiB");
    }
}
