//! Sets of replicas.

use std::fmt;
use std::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Sub, SubAssign};

use super::REPLICAS_MAX;

/// A replica's place in its volume, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplicaIndex(pub u8);

impl ReplicaIndex {
    /// As an index of a table.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ReplicaIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of replicas of one volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Members(u8);

impl Members {
    /// No replica.
    pub const NONE: Self = Self(0);

    /// The first `count` replicas.
    pub fn first(count: u8) -> Self {
        assert!(count <= REPLICAS_MAX);
        (0..count).map(ReplicaIndex).collect()
    }

    /// One replica.
    pub fn one(replica: ReplicaIndex) -> Self {
        assert!(replica.0 < REPLICAS_MAX);
        Self(1 << replica.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    pub fn len(self) -> u8 {
        u8::try_from(self.0.count_ones()).unwrap_or(u8::MAX)
    }

    /// Whether this replica is one of them.
    pub fn has(self, replica: ReplicaIndex) -> bool {
        self.0 >> replica.0 & 1 == 1
    }

    /// Whether all of `other` are among them.
    pub fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether any of `other` is among them.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds one.
    pub fn insert(&mut self, replica: ReplicaIndex) {
        *self |= Self::one(replica);
    }

    /// Takes one out.
    pub fn remove(&mut self, replica: ReplicaIndex) {
        *self -= Self::one(replica);
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = ReplicaIndex> + Clone {
        (0..REPLICAS_MAX).map(ReplicaIndex).filter(move |replica| self.has(*replica))
    }
}

impl FromIterator<ReplicaIndex> for Members {
    fn from_iter<T: IntoIterator<Item = ReplicaIndex>>(replicas: T) -> Self {
        replicas.into_iter().fold(Self::NONE, |members, replica| members | Self::one(replica))
    }
}

impl BitOr for Members {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Members {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl BitAnd for Members {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitAndAssign for Members {
    fn bitand_assign(&mut self, other: Self) {
        *self = *self & other;
    }
}

impl Sub for Members {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl SubAssign for Members {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|replica| replica.0)).finish()
    }
}
