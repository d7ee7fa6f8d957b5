//! The two shapes every format of this crate is written in: `layout!`, a byte structure whose field offsets
//! are proven by the compiler, and `bits!`, an integer divided into named fields.

/// Declares wire structures as the specification's tables do: byte offset, field, type.
///
/// Offsets and total size become compile-time assertions. The structure has alignment one, can be viewed in
/// place in any byte buffer (`zerocopy`), and starts out all zero through `Default`.
macro_rules! layout {
    ($( $(#[$meta:meta])* pub struct $name:ident: $size:literal {
        $( $(#[$fmeta:meta])* $off:literal => $field:ident: $ty:ty, )*
    } )*) => { $(
        $(#[$meta])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Debug,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
            zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty, )* }

        const _: () = assert!(::core::mem::size_of::<$name>() == $size);
        const _: () = assert!(::core::mem::align_of::<$name>() == 1);
        $( const _: () = assert!(::core::mem::offset_of!($name, $field) == $off); )*

        impl $name {
            #[doc = concat!("Size of the structure in bytes: ", stringify!($size), ".")]
            pub const SIZE: usize = $size;
        }

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    )* };
}

/// Declares an integer divided into fields: `getter, setter: type = lowest bit, width;` (`= bit;` for `bool`).
///
/// Getters never fail. Setters keep the bits of the value that fit and assert in debug builds that all do.
macro_rules! bits {
    ($( $(#[$meta:meta])* pub struct $name:ident($raw:ident) { $($body:tt)* } )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
        pub struct $name(pub $raw);

        impl $name {
            bits!(@fields $raw; $($body)*);
        }

        impl From<$raw> for $name {
            fn from(raw: $raw) -> Self {
                Self(raw)
            }
        }

        impl From<$name> for $raw {
            fn from(bits: $name) -> Self {
                bits.0
            }
        }
    )* };
    (@fields $raw:ident;) => {};
    (@fields $raw:ident; $(#[$meta:meta])* $get:ident, $set:ident: bool = $bit:expr; $($rest:tt)*) => {
        $(#[$meta])*
        pub const fn $get(self) -> bool {
            (self.0 >> $bit) & 1 == 1
        }

        #[doc = concat!("The same value with [`Self::", stringify!($get), "`] set to `value`.")]
        #[must_use]
        pub const fn $set(self, value: bool) -> Self {
            Self((self.0 & !(1 << $bit)) | ((value as $raw) << $bit))
        }

        bits!(@fields $raw; $($rest)*);
    };
    (@fields $raw:ident; $(#[$meta:meta])* $get:ident, $set:ident: $ty:ty = $shift:expr, $width:expr; $($rest:tt)*) => {
        $(#[$meta])*
        #[allow(clippy::cast_possible_truncation, reason = "masked to the width of the field")]
        pub const fn $get(self) -> $ty {
            ((self.0 >> $shift) & ($raw::MAX >> ($raw::BITS - $width))) as $ty
        }

        #[doc = concat!("The same value with [`Self::", stringify!($get), "`] set to `value`.")]
        #[must_use]
        #[allow(clippy::cast_possible_truncation, reason = "masked to the width of the field")]
        pub const fn $set(self, value: $ty) -> Self {
            const MASK: $raw = $raw::MAX >> ($raw::BITS - $width);
            debug_assert!(value as $raw <= MASK);
            Self((self.0 & !(MASK << $shift)) | (((value as $raw) & MASK) << $shift))
        }

        bits!(@fields $raw; $($rest)*);
    };
}

/// Declares a set of named values of a wire integer; unknown values stay representable.
macro_rules! codes {
    ($( $(#[$meta:meta])* pub struct $name:ident($raw:ident) {
        $( $(#[$vmeta:meta])* $konst:ident = $value:literal => $text:literal; )*
    } )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $raw);

        impl $name {
            $( $(#[$vmeta])* #[doc = concat!($text, " (`", stringify!($value), "`).")] pub const $konst: Self = Self($value); )*

            /// Every named value, in ascending order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$konst),*];

            /// The specification's name of this value, if it has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $( $value => Some($text), )* _ => None }
            }
        }

        impl From<$raw> for $name {
            fn from(raw: $raw) -> Self {
                Self(raw)
            }
        }

        impl From<$name> for $raw {
            fn from(code: $name) -> Self {
                code.0
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{:#04x}", self.0),
                }
            }
        }

        impl ::core::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                write!(f, "{}({:#04x}", stringify!($name), self.0)?;
                match self.name() {
                    Some(name) => write!(f, ": {name})"),
                    None => f.write_str(")"),
                }
            }
        }
    )* };
}

/// Declares named values of a byte that selects something, as plain constants with a `name` function.
macro_rules! consts {
    ($( $name:ident = $code:literal => $text:literal; )*) => {
        $( #[doc = concat!($text, " (`", stringify!($code), "`).")] pub const $name: u8 = $code; )*

        /// Every named value, ascending.
        pub const ALL: &[u8] = &[$($name),*];

        /// The specification's name of a value, if it has one.
        pub const fn name(code: u8) -> Option<&'static str> {
            match code { $( $code => Some($text), )* _ => None }
        }
    };
}

/// Declares the single bits of an integer field, one module of masks a field: `NAME = bit => meaning;`.
macro_rules! masks {
    ($( $(#[$meta:meta])* pub mod $module:ident: $ty:ty { $( $name:ident = $bit:literal => $text:literal; )* } )*) => { $(
        $(#[$meta])*
        pub mod $module {
            $( #[doc = concat!("Bit ", stringify!($bit), ": ", $text, ".")] pub const $name: $ty = 1 << $bit; )*
        }
    )* };
}

pub(crate) use {bits, codes, consts, layout, masks};
