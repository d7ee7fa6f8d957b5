//! Which cores to run on: parsing core lists and masks.
//!
//! Invariant: a [`CoreSet`] is sorted, without duplicates, and holds only cores below [`CORES_MAX`].

use std::fmt;
use std::str::FromStr;

/// Core numbers are below this: the largest `CONFIG_NR_CPUS` distributions ship with on x86-64.
pub const CORES_MAX: u16 = 8192;

/// A logical processor as the kernel numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of cores, in ascending order.
///
/// Parses from `0-3,5`, from the same in brackets (`[0-3,5]`), and from a hexadecimal mask (`0x2f`, bit 0 is core 0).
/// Displays as the shortest list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreSet(Vec<CoreId>);

/// Why a text is no [`CoreSet`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseCoresError {
    /// The text names no core.
    #[error("no core named")]
    Empty,
    /// A part is neither a number nor a range.
    #[error("`{part}` is neither a core number nor a range such as 0-3")]
    BadPart {
        /// The part that was not understood.
        part: String,
    },
    /// A range ends before it starts.
    #[error("the range {first}-{last} runs backwards")]
    Backwards {
        /// The first core of the range.
        first: CoreId,
        /// The last core of the range.
        last: CoreId,
    },
    /// A core is named twice.
    #[error("core {core} is named twice")]
    Duplicate {
        /// The core.
        core: CoreId,
    },
    /// A core number is [`CORES_MAX`] or above.
    #[error("core {core} is beyond the largest supported, {}", CORES_MAX - 1)]
    TooLarge {
        /// The number.
        core: u64,
    },
    /// A mask holds something other than hexadecimal digits.
    #[error("`{mask}` is not a hexadecimal mask")]
    BadMask {
        /// The mask, with its prefix.
        mask: String,
    },
    /// A list opens a bracket and does not close it, or the reverse.
    #[error("unbalanced brackets")]
    Brackets,
}

impl CoreSet {
    /// The cores this process may run on.
    #[must_use]
    pub fn available() -> Self {
        let mut cores: Vec<CoreId> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|core| u16::try_from(core.id).ok())
            .map(CoreId)
            .collect();
        cores.sort_unstable();
        cores.dedup();
        Self(cores)
    }

    /// The cores, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[CoreId] {
        &self.0
    }

    /// Whether `core` is in the set.
    #[must_use]
    pub fn contains(&self, core: CoreId) -> bool {
        self.0.binary_search(&core).is_ok()
    }

    /// How many cores.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The cores, ascending.
    #[must_use]
    pub fn into_vec(self) -> Vec<CoreId> {
        self.0
    }
}

impl FromStr for CoreSet {
    type Err = ParseCoresError;

    fn from_str(text: &str) -> Result<Self, ParseCoresError> {
        let text = text.trim();
        let mut cores = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => parse_mask(text, digits)?,
            None => parse_list(strip_brackets(text)?)?,
        };
        cores.sort_unstable();
        if cores.is_empty() {
            return Err(ParseCoresError::Empty);
        }
        match cores.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ParseCoresError::Duplicate { core: pair[0] }),
            None => Ok(Self(cores)),
        }
    }
}

fn strip_brackets(text: &str) -> Result<&str, ParseCoresError> {
    match (text.strip_prefix('['), text.ends_with(']')) {
        (Some(inner), true) => Ok(&inner[..inner.len() - 1]),
        (None, false) => Ok(text),
        _ => Err(ParseCoresError::Brackets),
    }
}

fn parse_mask(mask: &str, digits: &str) -> Result<Vec<CoreId>, ParseCoresError> {
    let bad_mask = || ParseCoresError::BadMask { mask: mask.to_owned() };
    if digits.is_empty() {
        return Err(bad_mask());
    }
    let mut cores = Vec::new();
    for (place, digit) in digits.bytes().rev().enumerate() {
        let nibble = char::from(digit).to_digit(16).ok_or_else(bad_mask)?;
        for bit in (0..4).filter(|bit| nibble & (1 << bit) != 0) {
            cores.push(checked_core(place as u64 * 4 + bit)?);
        }
    }
    Ok(cores)
}

fn parse_list(list: &str) -> Result<Vec<CoreId>, ParseCoresError> {
    let mut cores = Vec::new();
    if list.trim().is_empty() {
        return Err(ParseCoresError::Empty);
    }
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse_core(part, first)?, parse_core(part, last)?);
        if last < first {
            return Err(ParseCoresError::Backwards { first, last });
        }
        if cores.len() > usize::from(CORES_MAX) {
            break; // More numbers than cores: one of them is there twice, and the caller finds it.
        }
        cores.extend((first.0..=last.0).map(CoreId));
    }
    Ok(cores)
}

fn parse_core(part: &str, number: &str) -> Result<CoreId, ParseCoresError> {
    let number = number.trim();
    let bad_part = || ParseCoresError::BadPart { part: part.to_owned() };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad_part());
    }
    checked_core(number.parse().map_err(|_| bad_part())?)
}

fn checked_core(core: u64) -> Result<CoreId, ParseCoresError> {
    match u16::try_from(core) {
        Ok(number) if number < CORES_MAX => Ok(CoreId(number)),
        _ => Err(ParseCoresError::TooLarge { core }),
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for run in self.0.chunk_by(|a, b| a.0 + 1 == b.0) {
            match run {
                [first, .., last] => write!(f, "{separator}{first}-{last}")?,
                [only] => write!(f, "{separator}{only}")?,
                [] => {}
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(text: &str) -> Vec<u16> {
        text.parse::<CoreSet>().unwrap().as_slice().iter().map(|core| core.0).collect()
    }

    #[test]
    fn lists_masks_and_brackets_name_the_same_cores() {
        assert_eq!(cores("0-3,5"), [0, 1, 2, 3, 5]);
        assert_eq!(cores("[0, 1]"), [0, 1]);
        assert_eq!(cores("[0-1,4]"), [0, 1, 4]);
        assert_eq!(cores("0x3"), [0, 1]);
        assert_eq!(cores("0X100000000000000000"), [68]);
        assert_eq!(cores(" 7 "), [7]);
    }

    #[test]
    fn what_names_no_cores_is_refused_with_the_reason() {
        let error = |text: &str| text.parse::<CoreSet>().unwrap_err();
        assert_eq!(error(""), ParseCoresError::Empty);
        assert_eq!(error("[]"), ParseCoresError::Empty);
        assert_eq!(error("0x0"), ParseCoresError::Empty);
        assert_eq!(error("1,,2"), ParseCoresError::BadPart { part: String::new() });
        assert_eq!(error("1-"), ParseCoresError::BadPart { part: "1-".into() });
        assert_eq!(error("+1"), ParseCoresError::BadPart { part: "+1".into() });
        assert_eq!(error("3-1"), ParseCoresError::Backwards { first: CoreId(3), last: CoreId(1) });
        assert_eq!(error("0-2,1"), ParseCoresError::Duplicate { core: CoreId(1) });
        assert_eq!(error("8192"), ParseCoresError::TooLarge { core: 8192 });
        assert_eq!(error("0xg"), ParseCoresError::BadMask { mask: "0xg".into() });
        assert_eq!(error("[1"), ParseCoresError::Brackets);
    }

    proptest::proptest! {
        #[test]
        fn display_parses_back_to_the_same_set(cores in proptest::collection::btree_set(0..CORES_MAX, 1..40)) {
            let set = CoreSet(cores.into_iter().map(CoreId).collect());
            proptest::prop_assert_eq!(set.to_string().parse::<CoreSet>().unwrap(), set);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<CoreSet>();
        }
    }
}
