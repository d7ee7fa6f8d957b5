//! What is supported and with which effects: log pages, commands, features.

use crate::macros::{bits, layout};
use zerocopy::little_endian::U32;

layout! {
    /// Supported Log Pages (base 2.1 §5.1.12.1.1): a [`LogPageSupport`] a log page identifier.
    pub struct SupportedLogPages: 1024 {
        /// Entries by log page identifier.
        0 => pages: [U32; 256],
    }

    /// Commands Supported and Effects (base 2.1 §5.1.12.1.6): a [`CommandEffects`] an opcode.
    pub struct CommandsAndEffects: 4096 {
        /// Admin commands.
        0 => admin: [U32; 256],
        /// I/O commands of the command set asked for.
        1024 => io: [U32; 256],
        #[doc(hidden)]
        2048 => rsvd2048: [u8; 2048],
    }

    /// Feature Identifiers Supported and Effects (base 2.1 §5.1.12.1.18): a [`FeatureEffects`] a feature.
    pub struct FeaturesAndEffects: 1024 {
        /// Entries by feature identifier.
        0 => features: [U32; 256],
    }

    /// NVMe-MI Commands Supported and Effects (base 2.1 §5.1.12.1.19).
    pub struct MiCommandsAndEffects: 4096 {
        /// Entries by opcode.
        0 => commands: [U32; 256],
        #[doc(hidden)]
        1024 => rsvd1024: [u8; 3072],
    }
}

bits! {
    /// Support of a log page.
    pub struct LogPageSupport(u32) {
        /// Supported.
        lsupp, with_lsupp: bool = 0;
        /// The offset type of Get Log Page may be an index.
        ios, with_ios: bool = 1;
        /// Log specific parameter supported, or more of what the page defines.
        lidsp, with_lidsp: u16 = 16, 16;
    }

    /// Support and effects of a command (base 2.1 §5.1.12.1.6).
    pub struct CommandEffects(u32) {
        /// Supported.
        csupp, with_csupp: bool = 0;
        /// Logical block content may change.
        lbcc, with_lbcc: bool = 1;
        /// Capabilities of a namespace may change.
        ncc, with_ncc: bool = 2;
        /// The inventory of namespaces may change.
        nic, with_nic: bool = 3;
        /// Capabilities of the controller may change.
        ccc, with_ccc: bool = 4;
        /// Relaxations of `cse`.
        cser, with_cser: u8 = 14, 2;
        /// Submission and execution: 0 any, 1 alone on its namespace, 2 alone on the controller.
        cse, with_cse: u8 = 16, 3;
        /// UUID selection supported.
        uss, with_uss: bool = 19;
        /// Scope: bit 0 namespace, 1 controller, 2 NVM set, 3 endurance group, 4 domain, 5 subsystem.
        csp, with_csp: u16 = 20, 12;
    }

    /// Support and effects of a feature (base 2.1 §5.1.12.1.18).
    pub struct FeatureEffects(u32) {
        /// Supported.
        fsupp, with_fsupp: bool = 0;
        /// User data content may change.
        udcc, with_udcc: bool = 1;
        /// Capabilities of a namespace may change.
        ncc, with_ncc: bool = 2;
        /// The inventory of namespaces may change.
        nic, with_nic: bool = 3;
        /// Capabilities of the controller may change.
        ccc, with_ccc: bool = 4;
        /// UUID selection supported.
        uss, with_uss: bool = 19;
        /// Scope: bit 0 namespace, 1 controller, 2 NVM set, 3 endurance group, 4 domain, 5 subsystem.
        fsp, with_fsp: u16 = 20, 12;
    }
}

impl CommandEffects {
    /// Supported, with no effect but on the data it returns.
    pub const PLAIN: Self = Self(0).with_csupp(true);
    /// Supported, may change the content of logical blocks.
    pub const WRITES: Self = Self::PLAIN.with_lbcc(true);
}

impl SupportedLogPages {
    /// Marks a page as supported.
    pub fn set(&mut self, lid: u8, support: LogPageSupport) {
        self.pages[usize::from(lid)] = U32::new(support.0);
    }

    /// Support of a page.
    pub fn get(&self, lid: u8) -> LogPageSupport {
        LogPageSupport(self.pages[usize::from(lid)].get())
    }
}

impl CommandsAndEffects {
    /// Effects of an admin command.
    pub fn set_admin(&mut self, opcode: u8, effects: CommandEffects) {
        self.admin[usize::from(opcode)] = U32::new(effects.0);
    }

    /// Effects of an I/O command.
    pub fn set_io(&mut self, opcode: u8, effects: CommandEffects) {
        self.io[usize::from(opcode)] = U32::new(effects.0);
    }

    /// Effects of an admin command.
    pub fn admin(&self, opcode: u8) -> CommandEffects {
        CommandEffects(self.admin[usize::from(opcode)].get())
    }

    /// Effects of an I/O command.
    pub fn io(&self, opcode: u8) -> CommandEffects {
        CommandEffects(self.io[usize::from(opcode)].get())
    }
}

impl FeaturesAndEffects {
    /// Effects of a feature.
    pub fn set(&mut self, fid: u8, effects: FeatureEffects) {
        self.features[usize::from(fid)] = U32::new(effects.0);
    }

    /// Effects of a feature.
    pub fn get(&self, fid: u8) -> FeatureEffects {
        FeatureEffects(self.features[usize::from(fid)].get())
    }
}
