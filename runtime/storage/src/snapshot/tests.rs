//! Snapshots as they are written and read back.

use super::*;
use crate::disk::faulty::FaultyDisk;
use crate::entry::EntryBody;
use crate::frame::FRAME_HEADER_BYTES;
use crate::reader::WalReader;

const GROUP: GroupId = GroupId(3);

fn snapshots(disk: &FaultyDisk) -> Snapshots {
    Snapshots::new(Arc::new(disk.clone()), 7)
}

fn write(disk: &FaultyDisk, index: u64, sections: &[&[u8]]) -> io::Result<u64> {
    let mut writer = snapshots(disk).begin(GROUP, EntryId { index, term: 2 })?;
    sections.iter().try_for_each(|section| writer.section(section))?;
    writer.finish()
}

fn read(snapshots: &Snapshots) -> Result<Option<(u64, Vec<Bytes>)>, WalError> {
    let Some(mut reader) = snapshots.open(GROUP, None, Some(EntryId { index: 100, term: 2 }))? else {
        return Ok(None);
    };
    let mut sections = Vec::new();
    while let Some(section) = reader.section()? {
        sections.push(section);
    }
    Ok(Some((reader.last().index, sections)))
}

#[test]
fn a_snapshot_reads_back_as_written_and_replaces_the_one_before() {
    let disk = FaultyDisk::new(1 << 20, 1);
    assert_eq!(read(&snapshots(&disk)).expect("there is none"), None);
    for (index, sections) in [(5, vec![&b"one"[..], b"two"]), (9, vec![&b"three"[..]])] {
        let bytes = write(&disk, index, &sections).expect("there is space");
        let (last, found) = read(&snapshots(&disk)).expect("as it was written").expect("it is there");
        assert_eq!((last, found), (index, sections.iter().map(|section| Bytes::from(section.to_vec())).collect()));
        assert_eq!(disk.list().expect("it can be listed"), [name(GROUP)]);
        assert_eq!(bytes, disk.open(&name(GROUP)).expect("it is there").bytes());
    }
}

#[test]
fn every_flipped_bit_and_every_lost_end_is_noticed() {
    let disk = FaultyDisk::new(1 << 20, 1);
    let bytes = write(&disk, 5, &[b"one", b"two"]).expect("there is space");
    let whole = disk.read(&name(GROUP)).expect("it is there");
    for bit in 0..bytes * 8 {
        let damaged = disk.copy();
        damaged.flip_bit(&name(GROUP), bit / 8, (bit % 8) as u8).expect("it is there");
        assert!(read(&snapshots(&damaged)).is_err(), "bit {bit}");
    }
    for kept in 0..whole.len() {
        disk.write_atomic(&name(GROUP), &whole[..kept]).expect("there is space");
        assert!(read(&snapshots(&disk)).is_err(), "{kept} bytes");
    }
    disk.write_atomic(&name(GROUP), &[&whole[..], b"x"].concat()).expect("there is space");
    assert!(read(&snapshots(&disk)).is_err(), "bytes follow");
}

/// One that carries two entries, received and not the current one yet.
fn receive(disk: &FaultyDisk) -> io::Result<()> {
    let mut writer = snapshots(disk).begin_received(GROUP, EntryId { index: 9, term: 2 })?;
    writer.section(b"one")?;
    writer.entry(EntryId { index: 4, term: 1 }, 7, b"four")?;
    writer.entry(EntryId { index: 9, term: 2 }, 8, b"nine")?;
    writer.section(b"two")?;
    writer.finish().map(drop)
}

/// Index, term, kind and body.
type Entry = (u64, u64, u8, Bytes);

/// Sections and entries.
fn read_all(mut reader: SnapshotReader) -> Result<(Vec<Bytes>, Vec<Entry>), WalError> {
    let mut sections = Vec::new();
    while let Some(section) = reader.section()? {
        sections.push(section);
    }
    let mut entries = Vec::new();
    for index in reader.carried().indices() {
        let entry = reader.carried().entry(index).expect("it is listed");
        let EntryBody::Stored(place) = entry.body else { panic!("it lies in the file") };
        let frame = WalReader::default().read_frame(&place)?;
        entries.push((entry.id.index, entry.id.term, entry.kind, frame.slice(FRAME_HEADER_BYTES..)));
    }
    Ok((sections, entries))
}

#[test]
fn what_a_received_snapshot_carries_reads_back_as_written_also_when_it_has_taken_the_others_place() {
    let disk = FaultyDisk::new(1 << 20, 1);
    write(&disk, 5, &[b"old"]).expect("there is space");
    receive(&disk).expect("there is space");
    let snapshots = snapshots(&disk);
    assert_eq!(read(&snapshots).expect("it is whole").expect("it is there").0, 5, "the other is the current one");
    let reader = snapshots.received(GROUP).expect("it is there");
    let again = reader.again();
    snapshots.promote(GROUP).expect("it is there");
    let sections = [&b"one"[..], b"two"].map(Bytes::from).to_vec();
    let entries = vec![(4, 1, 7, Bytes::from("four")), (9, 2, 8, Bytes::from("nine"))];
    // The log may end before it, and must not begin behind it.
    let id = |index| Some(EntryId { index, term: 2 });
    for reader in [reader, again, snapshots.open(GROUP, id(2), id(6)).expect("it is whole").expect("it is there")] {
        assert_eq!(read_all(reader).expect("as it was written"), (sections.clone(), entries.clone()));
    }
    assert!(matches!(snapshots.open(GROUP, id(10), id(12)), Err(WalError::Corrupt { .. })));
    assert_eq!(disk.list().expect("it can be listed"), [name(GROUP)]);
    receive(&disk).expect("there is space");
    for _ in 0..2 {
        snapshots.forget_received(GROUP).expect("there is power");
    }
    assert_eq!(disk.list().expect("it can be listed"), [name(GROUP)]);
}

#[test]
fn every_flipped_bit_of_what_a_snapshot_carries_is_noticed() {
    let disk = FaultyDisk::new(1 << 20, 1);
    receive(&disk).expect("there is space");
    let bytes = snapshots(&disk).received(GROUP).expect("it is there").bytes();
    for bit in 0..bytes * 8 {
        let damaged = disk.copy();
        damaged.flip_bit(&received_name(GROUP), bit / 8, (bit % 8) as u8).expect("it is there");
        let snapshots = snapshots(&damaged);
        let read = snapshots.promote(GROUP).map_err(|error| WalError::io("", error));
        let read = read.and_then(|()| snapshots.open(GROUP, None, None)).map(|reader| reader.expect("it is there"));
        assert!(read.and_then(read_all).is_err(), "bit {bit}");
    }
}

#[test]
fn entries_out_of_their_order_or_from_later_on_are_refused() {
    for ids in [[(5, 1), (5, 1)], [(5, 2), (6, 1)], [(9, 2), (10, 2)], [(8, 2), (9, 3)]] {
        let disk = FaultyDisk::new(1 << 20, 1);
        let mut writer = snapshots(&disk).begin_received(GROUP, EntryId { index: 9, term: 2 }).expect("there is space");
        for (index, term) in ids {
            writer.entry(EntryId { index, term }, 1, b"body").expect("there is space");
        }
        writer.finish().expect("there is space");
        let reader = snapshots(&disk).received(GROUP).expect("it is there");
        assert!(matches!(read_all(reader), Err(WalError::Corrupt { .. })), "{ids:?}");
    }
}

#[test]
fn sections_in_another_order_and_another_groups_snapshot_are_noticed() {
    let disk = FaultyDisk::new(1 << 20, 1);
    write(&disk, 5, &[b"one", b"two"]).expect("there is space");
    let mut bytes = disk.read(&name(GROUP)).expect("it is there");
    let section = SECTION_HEAD_BYTES + 3;
    bytes[HEADER_BYTES..HEADER_BYTES + 2 * section].rotate_left(section);
    disk.write_atomic(&name(GROUP), &bytes).expect("there is space");
    assert!(matches!(read(&snapshots(&disk)), Err(WalError::Corrupt { .. })));

    write(&disk, 5, &[b"one"]).expect("there is space");
    let other = Snapshots::new(Arc::new(disk.clone()), 8);
    assert!(matches!(read(&other), Err(WalError::Foreign { .. })));
    disk.rename(&name(GROUP), &name(GroupId(4))).expect("it is there");
    assert!(matches!(snapshots(&disk).open(GroupId(4), None, None), Err(WalError::Foreign { .. })));
}

#[test]
fn a_power_cut_leaves_the_old_snapshot_or_the_new_one() {
    let mut seen = [false; 2];
    for seed in 0..8 {
        for operation in 1.. {
            let disk = FaultyDisk::new(1 << 20, seed);
            write(&disk, 5, &[b"old"]).expect("there is space");
            let before = disk.operations();
            disk.cut_power_at(before + operation);
            let written = write(&disk, 9, &[b"new", b"er"]);
            if disk.has_power() {
                break;
            }
            written.expect_err("the power was cut");
            let (last, sections) = read(&snapshots(&disk.crash())).expect("a whole one").expect("one is there");
            seen[usize::from(last == 9)] = true;
            assert_eq!((last, sections.len()), if last == 9 { (9, 2) } else { (5, 1) });
        }
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn a_full_disk_leaves_the_old_snapshot() {
    let disk = FaultyDisk::new(1 << 20, 1);
    write(&disk, 5, &[b"old"]).expect("there is space");
    disk.set_full(true);
    let error = write(&disk, 9, &[b"new"]).expect_err("it is full");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(read(&snapshots(&disk)).expect("it is whole").expect("it is there").0, 5);
}
