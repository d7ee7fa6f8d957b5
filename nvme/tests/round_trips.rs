//! Encode and decode are inverse, for every command, descriptor, register and list; no bytes make a reader panic.

use nvme::zerocopy::{FromBytes, IntoBytes};
use nvme::{
    Ascii, Cqe, HostId, KEYED_LENGTH_MAX, Lba, Nqn, Nsid, NulStr, QueueId, Sgl, SglDescriptor, Sqe, Status,
    admin, discovery, event, fabrics, features, identify, log, nvm, properties, tcp,
};
use proptest::prelude::*;

fn sqe() -> impl Strategy<Value = Sqe> {
    prop::array::uniform32(any::<[u8; 2]>())
        .prop_map(|b| Sqe::read_from_bytes(b.as_bytes()).expect("64 bytes"))
}

/// The command read from a re-written entry is the command read from the entry.
macro_rules! commands_round_trip {
    ($( $name:ident: $ty:ty; )*) => {
        proptest! { $(
            #[test]
            fn $name(mut entry in sqe(), opcode in any::<u8>()) {
                entry.opcode = opcode;
                let read = <$ty>::from(&entry);
                let written = read.to_sqe(entry.cid.get());
                prop_assert_eq!(<$ty>::from(&written), read);
                prop_assert_eq!(written.cid, entry.cid);
                prop_assert_eq!(<$ty>::from(&written).to_sqe(entry.cid.get()), written);
            }
        )* }
    };
}

commands_round_trip! {
    read_write_round_trips: nvm::ReadWrite;
    flush_round_trips: nvm::Flush;
    dataset_management_round_trips: nvm::DatasetManagement;
    reservation_register_round_trips: nvm::ReservationRegister;
    reservation_acquire_round_trips: nvm::ReservationAcquire;
    reservation_release_round_trips: nvm::ReservationRelease;
    reservation_report_round_trips: nvm::ReservationReport;
    identify_round_trips: admin::Identify;
    get_log_page_round_trips: admin::GetLogPage;
    get_features_round_trips: admin::GetFeatures;
    set_features_round_trips: admin::SetFeatures;
    abort_round_trips: admin::Abort;
    discovery_information_management_round_trips: discovery::DiscoveryInformationManagement;
}

proptest! {
    #[test]
    fn a_read_write_keeps_every_bit_of_its_dwords(entry in sqe()) {
        let written = nvm::ReadWrite::from(&entry).to_sqe(entry.cid.get());
        prop_assert_eq!(
            (written.cdw2, written.cdw3, written.cdw10, written.cdw11, written.cdw12),
            (entry.cdw2, entry.cdw3, entry.cdw10, entry.cdw11, entry.cdw12)
        );
        prop_assert_eq!((written.cdw13, written.cdw14, written.cdw15), (entry.cdw13, entry.cdw14, entry.cdw15));
        prop_assert_eq!((written.opcode, written.nsid), (entry.opcode, entry.nsid));
    }

    #[test]
    fn a_range_ends_where_it_says_or_not_at_all(slba in any::<u64>(), nlb in 1u32..=nvm::NLB_MAX) {
        let end = nvm::ReadWrite::read(Nsid(1), Lba(slba), nlb).end();
        prop_assert_eq!(end.map(|e| u128::from(e.0)), Some(u128::from(slba) + u128::from(nlb)).filter(|e| *e <= u128::from(u64::MAX)));
    }

    #[test]
    fn fabrics_views_share_the_bytes_of_the_entry(entry in sqe()) {
        prop_assert_eq!(fabrics::ConnectCommand::of(&entry).to_sqe(), entry);
        prop_assert_eq!(fabrics::PropertyGet::of(&entry).to_sqe(), entry);
        prop_assert_eq!(fabrics::PropertySet::of(&entry).to_sqe(), entry);
        prop_assert_eq!(fabrics::Disconnect::of(&entry).to_sqe(), entry);
        prop_assert_eq!(fabrics::AuthCommand::of(&entry).to_sqe(), entry);
        prop_assert_eq!(fabrics::ConnectCommand::of(&entry).fctype, fabrics::fctype_of(&entry));
    }

    #[test]
    fn an_sgl_that_decodes_keeps_its_meaning(bytes in any::<[u8; 16]>()) {
        let sgl = Sgl { bytes };
        if let Ok(descriptor) = sgl.decode() {
            let written = Sgl::from(descriptor);
            prop_assert_eq!(written.decode(), Ok(descriptor));
            prop_assert_eq!((written.kind(), written.subtype()), (sgl.kind(), sgl.subtype()));
        }
    }

    #[test]
    fn a_keyed_descriptor_reads_back(address in any::<u64>(), length in 0..=KEYED_LENGTH_MAX, key in any::<u32>(), invalidate in any::<bool>()) {
        let descriptor = SglDescriptor::KeyedDataBlock { address, length, key, invalidate };
        prop_assert_eq!(Sgl::from(descriptor).decode(), Ok(descriptor));
    }

    #[test]
    fn an_unkeyed_descriptor_reads_back(address in any::<u64>(), length in any::<u32>(), in_capsule in any::<bool>()) {
        for descriptor in [
            SglDescriptor::DataBlock { address, length },
            SglDescriptor::InCapsule { offset: address, length },
            SglDescriptor::BitBucket { length },
            SglDescriptor::Segment { address, length, in_capsule },
            SglDescriptor::LastSegment { address, length, in_capsule },
            SglDescriptor::Transport { length },
        ] {
            prop_assert_eq!(Sgl::from(descriptor).decode(), Ok(descriptor));
        }
    }

    #[test]
    fn a_completion_gives_back_what_was_put_in(cid in any::<u16>(), result in any::<u64>(), field in any::<u16>(), sqhd in any::<u16>()) {
        let status = Status::from_cqe_field(field);
        let cqe = Cqe::new(cid, status).with_result(result).with_sqhd(sqhd);
        prop_assert_eq!((cqe.cid.get(), cqe.status(), cqe.phase(), cqe.sqhd.get()), (cid, status, false, sqhd));
        prop_assert_eq!(u64::from(cqe.dw1()) << 32 | u64::from(cqe.dw0()), result);
    }

    #[test]
    fn results_read_back(cntlid in any::<u16>(), atr in any::<bool>(), ascr in any::<bool>(), offset in any::<u16>(), raw in any::<u64>()) {
        let connected = fabrics::ConnectResult {
            cntlid: cntlid.into(), authentication_required: atr, secure_channel_required: ascr,
        };
        prop_assert_eq!(fabrics::ConnectResult::from_result(connected.to_result()), connected);
        for invalid in [
            fabrics::ConnectInvalidParameter::Command { offset },
            fabrics::ConnectInvalidParameter::Data { offset },
        ] {
            prop_assert_eq!(fabrics::ConnectInvalidParameter::from_result(invalid.to_result()), invalid);
        }
        let event = event::AsyncEvent::from_result(raw);
        prop_assert_eq!(event::AsyncEvent::from_result(event.to_result()), event);
    }

    #[test]
    fn registers_keep_the_fields_they_do_not_set(raw in any::<u64>(), to in any::<u8>(), mqes in any::<u16>(), en in any::<bool>()) {
        let cap = properties::Cap(raw);
        let set = cap.with_to(to).with_mqes(mqes);
        prop_assert_eq!((set.to(), set.mqes()), (to, mqes));
        prop_assert_eq!(set.with_to(cap.to()).with_mqes(cap.mqes()), cap);
        let cc = properties::Cc(u32::from_le_bytes(raw.to_le_bytes()[..4].try_into().expect("four bytes")));
        prop_assert_eq!(cc.with_en(en).en(), en);
        prop_assert_eq!(cc.with_en(en).with_en(cc.en()), cc);
    }

    #[test]
    fn queue_counts_read_back(queues in 1u16..) {
        let both = features::NumberOfQueues::both(queues);
        prop_assert_eq!((both.submission_queues(), both.completion_queues()), (queues.into(), queues.into()));
    }

    #[test]
    fn a_timestamp_keeps_48_bits(ms in any::<u64>(), attributes in any::<u8>()) {
        let stamp = features::Timestamp::new(ms, attributes);
        prop_assert_eq!(stamp.milliseconds(), ms & features::Timestamp::MILLISECONDS_MAX);
    }

    #[test]
    fn text_fields_read_back(text in "[!-~]([ -~]{0,18}[!-~])?", name in "[^\0]{0,60}") {
        prop_assert_eq!(Ascii::<20>::new(&text).map(|f| f.to_str().map(str::to_owned)), Ok(Some(text)));
        prop_assert_eq!(NulStr::<256>::new(&name).map(|f| f.to_str().map(str::to_owned)), Ok(Some(name)));
    }

    #[test]
    fn a_name_that_parses_survives_a_connect(subnqn in "nqn\\.20[0-9]{2}-0[1-9]\\.[a-z]{1,8}\\.[a-z0-9]{1,20}:[ -~]{1,100}", uuid in any::<[u8; 16]>()) {
        let subnqn: Nqn = subnqn.parse().expect("a valid name");
        let hostnqn = Nqn::from_uuid(uuid);
        let data = fabrics::ConnectData::new(HostId(uuid), nvme::ControllerId::DYNAMIC, &subnqn, &hostnqn);
        let read = fabrics::ConnectData::read_from_bytes(data.as_bytes()).expect("1,024 bytes");
        prop_assert_eq!((read.subnqn.nqn(), read.hostnqn.nqn(), read.hostid), (Ok(subnqn), Ok(hostnqn), HostId(uuid)));
    }

    #[test]
    fn a_host_identifier_reads_back(bytes in any::<[u8; 16]>()) {
        prop_assert_eq!(HostId(bytes).to_string().parse(), Ok(HostId(bytes)));
    }

    #[test]
    fn a_namespace_list_pages_through_every_namespace(nsids in prop::collection::btree_set(1u32.., 0..3000)) {
        let mut after = Nsid::NONE;
        let mut seen = Vec::new();
        loop {
            let page = identify::NsidList::above(after, nsids.iter().copied().map(Nsid));
            let before = seen.len();
            seen.extend(page.iter());
            if seen.len() == before { break; }
            after = seen.last().copied().unwrap_or(after);
        }
        prop_assert_eq!(seen, nsids.into_iter().map(Nsid).collect::<Vec<_>>());
    }

    #[test]
    fn descriptors_read_back(eui in any::<[u8; 8]>(), id in any::<[u8; 16]>(), csi in any::<u8>(), pick in 0usize..16) {
        let all = [
            identify::NamespaceIdentifier::Eui64(eui),
            identify::NamespaceIdentifier::Nguid(id),
            identify::NamespaceIdentifier::Uuid(id),
            identify::NamespaceIdentifier::Csi(identify::Csi(csi)),
        ];
        let ids = all.into_iter().enumerate().filter(|(i, _)| pick >> i & 1 == 1).map(|(_, id)| id).collect();
        prop_assert_eq!(identify::decode_descriptors(&identify::encode_descriptors(&ids)), ids);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        drop(identify::decode_descriptors(&bytes));
        if let Some((_, groups)) = log::AnaGroups::parse(&bytes) {
            prop_assert!(groups.count() <= bytes.len() / log::AnaGroup::SIZE);
        }
        if let Some((_, events)) = log::PersistentEvents::parse(&bytes) {
            prop_assert!(events.count() <= bytes.len() / log::PersistentEvent::SIZE);
        }
        if let Ok((namespace, _)) = identify::IdentifyNamespace::ref_from_prefix(&bytes) {
            prop_assert!(namespace.block_bytes().is_none_or(|b| b.is_power_of_two() && b >= 512));
        }
        if let Ok((controller, _)) = identify::IdentifyController::ref_from_prefix(&bytes) {
            prop_assert!(controller.data_bytes_max(bytes[0]).is_none_or(|b| b >= 8192));
            prop_assert!(u64::from(controller.in_capsule_bytes()) <= u64::from(controller.ioccsz.get()) * 16);
        }
        if let Ok((list, _)) = identify::ControllerList::ref_from_prefix(&bytes) {
            prop_assert!(list.iter().count() <= identify::CONTROLLER_LIST_MAX);
        }
        if let Ok((entry, _)) = discovery::DiscoveryEntry::ref_from_prefix(&bytes) {
            let _ = (entry.socket_address(), entry.subnqn.nqn().is_ok(), format!("{entry:?}"));
        }
        let _ = Nqn::from_bytes(&bytes);
    }

    #[test]
    fn no_text_makes_a_name_panic(text in "\\PC*", tail in "nqn\\.[0-9-]{0,8}\\.?[a-z.:-]{0,12}.*") {
        for text in [text, tail] {
            if let Ok(name) = text.parse::<Nqn>() {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }

    #[test]
    fn a_log_page_read_asks_for_the_bytes_it_was_given(dwords in 1u32..=u32::MAX / 4, offset in any::<u64>()) {
        let command = admin::GetLogPage::new(log::lid::DISCOVERY, dwords * 4, offset & !3);
        let read = admin::GetLogPage::from(&command.to_sqe(1));
        prop_assert_eq!((read.data_bytes(), read.lpo), (u64::from(dwords) * 4, offset & !3));
    }

    #[test]
    fn an_abort_names_its_command(sqid in any::<u16>(), victim in any::<u16>(), cid in any::<u16>()) {
        let abort = admin::Abort { sqid: QueueId(sqid), cid: victim };
        prop_assert_eq!(admin::Abort::from(&abort.to_sqe(cid)), abort);
    }

    #[test]
    fn pdus_read_back(a in any::<u16>(), b in any::<u16>(), c in any::<u32>(), d in any::<u32>()) {
        let r2t = tcp::R2t::new(a, b, c, d);
        let read = tcp::R2t::read_from_bytes(r2t.as_bytes()).expect("24 bytes");
        prop_assert_eq!((read.cccid.get(), read.ttag.get(), read.r2to.get(), read.r2tl.get()), (a, b, c, d));
        prop_assert_eq!(read.ch.pdu_type().hlen(), Some(read.ch.hlen));
    }
}
