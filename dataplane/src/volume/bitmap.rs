//! One bit for each region of a volume.

/// Bits of a word.
const WORD: u64 = 64;

/// A set of regions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bitmap {
    words: Vec<u64>,
    len: u64,
    ones: u64,
}

impl Bitmap {
    /// `len` regions, none of them in the set.
    pub fn new(len: u64) -> Self {
        let words = usize::try_from(len.div_ceil(WORD)).unwrap_or(usize::MAX);
        Self { words: vec![0; words], len, ones: 0 }
    }

    /// `len` regions, all of them in the set.
    pub fn full(len: u64) -> Self {
        let mut all = Self::new(len);
        for region in 0..len {
            all.set(region);
        }
        all
    }

    /// How many regions there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the set has no region.
    pub fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// How many regions are in the set.
    pub fn ones(&self) -> u64 {
        self.ones
    }

    fn place(&self, region: u64) -> (usize, u64) {
        assert!(region < self.len, "region {region} of {}", self.len);
        (usize::try_from(region / WORD).unwrap_or(usize::MAX), 1 << (region % WORD))
    }

    /// Whether a region is in the set.
    pub fn has(&self, region: u64) -> bool {
        let (word, bit) = self.place(region);
        self.words[word] & bit != 0
    }

    /// Puts a region into the set; whether it was not there.
    pub fn set(&mut self, region: u64) -> bool {
        let (word, bit) = self.place(region);
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.ones += u64::from(new);
        new
    }

    /// Other regions from the end on: those that come are in the set, or not.
    pub fn resize(&mut self, len: u64, come: bool) {
        let mut resized = Self::new(len);
        resized.unite_words(0, &self.words);
        for region in (self.len..len).filter(|_| come) {
            resized.set(region);
        }
        *self = resized;
    }

    /// Takes a region out; whether it was there.
    pub fn clear(&mut self, region: u64) -> bool {
        let (word, bit) = self.place(region);
        let old = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        self.ones -= u64::from(old);
        old
    }

    /// Takes all out.
    pub fn clear_all(&mut self) {
        self.words.fill(0);
        self.ones = 0;
    }

    /// Puts all of `other` in.
    pub fn unite(&mut self, other: &Self) {
        assert!(self.len == other.len);
        self.ones = 0;
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
            self.ones += u64::from(word.count_ones());
        }
    }

    /// Whether any region of a range is in the set.
    pub fn meets(&self, mut regions: std::ops::Range<u64>) -> bool {
        !self.is_empty() && regions.any(|region| self.has(region))
    }

    /// The first region of the set from `from` on.
    pub fn next(&self, from: u64) -> Option<u64> {
        if self.is_empty() || from >= self.len {
            return None;
        }
        let (mut word, _) = self.place(from);
        let mut left = self.words[word] & (u64::MAX << (from % WORD));
        loop {
            if left != 0 {
                return Some(word as u64 * WORD + u64::from(left.trailing_zeros()));
            }
            word += 1;
            left = *self.words.get(word)?;
        }
    }

    /// Every region of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let region = self.next(from)?;
            from = region + 1;
            Some(region)
        })
    }

    /// The words, lowest regions first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Puts the regions of these words in, the first word at word `at`; bits beyond the end are ignored.
    pub fn unite_words(&mut self, at: usize, words: &[u64]) {
        let last = self.words.len();
        for (index, more) in (at..last).zip(words) {
            let beyond = (index as u64 + 1) * WORD > self.len;
            let mask = if beyond && !self.len.is_multiple_of(WORD) {
                (1 << (self.len % WORD)) - 1
            } else {
                u64::MAX
            };
            let new = more & mask & !self.words[index];
            self.words[index] |= new;
            self.ones += u64::from(new.count_ones());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_found_in_order_across_words() {
        let mut map = Bitmap::new(200);
        for region in [0, 63, 64, 130, 199] {
            assert!(map.set(region));
            assert!(!map.set(region));
        }
        assert_eq!(map.iter().collect::<Vec<_>>(), [0, 63, 64, 130, 199]);
        assert_eq!((map.next(65), map.next(200), map.ones()), (Some(130), None, 5));
        assert!(map.meets(120..131) && !map.meets(65..130));
        assert!(map.clear(64) && !map.clear(64));
        assert_eq!(map.ones(), 4);
    }

    #[test]
    fn words_that_reach_beyond_the_end_add_no_region() {
        let mut map = Bitmap::new(70);
        map.unite_words(0, &[1, u64::MAX, 7]);
        assert_eq!(map.iter().collect::<Vec<_>>(), [0, 64, 65, 66, 67, 68, 69]);
        assert_eq!(map.ones(), 7);
        assert_eq!(Bitmap::full(70).ones(), 70);
    }
}
