//! The health of a subsystem: that of the worst of its devices, as far as they tell.

use nvme::log::SmartLog;
use nvme::{U32, U128};

/// What a subsystem without devices that tell of their health says: there is no medium that could be ill.
pub(super) fn unknown() -> SmartLog {
    SmartLog { available_spare: 100, spare_threshold: 10, ..SmartLog::default() }
}

/// The worst of two devices, value by value. Counts are not added: two namespaces may be of one device.
pub(super) fn worse(a: &SmartLog, b: &SmartLog) -> SmartLog {
    let long = |a: U128, b: U128| U128::new(a.get().max(b.get()));
    let word = |a: U32, b: U32| U32::new(a.get().max(b.get()));
    let hotter = if a.temperature.get() >= b.temperature.get() { a } else { b };
    let scarcer = if a.available_spare <= b.available_spare { a } else { b };
    SmartLog {
        critical_warning: a.critical_warning | b.critical_warning,
        temperature: hotter.temperature,
        temperature_sensors: hotter.temperature_sensors,
        available_spare: scarcer.available_spare,
        spare_threshold: scarcer.spare_threshold,
        percentage_used: a.percentage_used.max(b.percentage_used),
        endurance_group_warning: a.endurance_group_warning | b.endurance_group_warning,
        power_cycles: long(a.power_cycles, b.power_cycles),
        power_on_hours: long(a.power_on_hours, b.power_on_hours),
        unsafe_shutdowns: long(a.unsafe_shutdowns, b.unsafe_shutdowns),
        media_errors: long(a.media_errors, b.media_errors),
        warning_temperature_minutes: word(a.warning_temperature_minutes, b.warning_temperature_minutes),
        critical_temperature_minutes: word(a.critical_temperature_minutes, b.critical_temperature_minutes),
        tmt1_transitions: word(a.tmt1_transitions, b.tmt1_transitions),
        tmt2_transitions: word(a.tmt2_transitions, b.tmt2_transitions),
        tmt1_seconds: word(a.tmt1_seconds, b.tmt1_seconds),
        tmt2_seconds: word(a.tmt2_seconds, b.tmt2_seconds),
        // What went through is counted here, not by the devices.
        ..SmartLog::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme::U16;

    #[test]
    fn the_worst_of_each_value_is_told() {
        let hot = SmartLog {
            critical_warning: 2,
            temperature: U16::new(350),
            available_spare: 90,
            spare_threshold: 5,
            percentage_used: 3,
            media_errors: U128::new(7),
            ..SmartLog::default()
        };
        let worn = SmartLog {
            critical_warning: 1,
            temperature: U16::new(300),
            available_spare: 8,
            spare_threshold: 10,
            percentage_used: 101,
            media_errors: U128::new(2),
            ..SmartLog::default()
        };
        let both = worse(&hot, &worn);
        assert_eq!((both.critical_warning, both.temperature.get(), both.percentage_used), (3, 350, 101));
        assert_eq!((both.available_spare, both.spare_threshold, both.media_errors.get()), (8, 10, 7));
        assert_eq!(worse(&worn, &hot), both);
    }
}
