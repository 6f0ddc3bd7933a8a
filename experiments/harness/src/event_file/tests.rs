use super::*;

#[test]
fn checksums_are_those_of_the_format() {
    // RFC 3720, B.4: 32 zero bytes.
    assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    let record = framed(b"abc");
    assert_eq!(
        (record.len(), &record[..8]),
        (3 + FRAME, &3u64.to_le_bytes()[..])
    );
    assert_eq!(next_record(&record), Some(Ok(&b"abc"[..])));
    for i in 0..record.len() {
        assert_eq!(next_record(&record[..i]), None);
        let mut damaged = record.clone();
        damaged[i] ^= 4;
        assert!(!matches!(next_record(&damaged), Some(Ok(_)) | None), "{i}");
    }
}

#[test]
fn numbers_are_encoded_as_protobuf_does() {
    for (value, bytes) in [(1, &[1][..]), (300, &[0xac, 2][..])] {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        assert_eq!(out, bytes);
    }
    for value in [0, 127, 128, u64::MAX] {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        assert_eq!(take_varint(&mut &out[..]), Some(value));
    }
}

fn steps(path: &Path) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    let (mut at, mut steps) = (0, Vec::new());
    while let Some(record) = next_record(&bytes[at..]) {
        let record = record.unwrap();
        steps.push(step_of(record).unwrap());
        at += record.len() + FRAME;
    }
    assert_eq!(at, bytes.len());
    steps
}

#[test]
fn a_file_cut_anywhere_continues() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.out.tfevents.0");
    let mut writer = EventWriter::create(&path).unwrap();
    for step in 1..=4 {
        writer
            .scalars(step, [("loss", 0.5), ("objective/kl", 2.0)])
            .unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    for cut in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let mut writer = EventWriter::resume(&path, 3).unwrap();
        let next = writer.last_step().unwrap_or(0) + 1;
        assert!(next <= 4);
        for step in next..=4 {
            writer.scalars(step, [("loss", 0.5)]).unwrap();
        }
        assert_eq!(steps(&path), [0, 1, 2, 3, 4], "{cut}");
    }
    let mut damaged = bytes.clone();
    damaged[20] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let said = EventWriter::resume(&path, 3).unwrap_err().to_string();
    assert!(said.contains("wrong checksum"), "{said}");
    assert!(EventWriter::create(&dir.path().join("events.txt")).is_err());
    assert!(EventWriter::create(&path).is_err());
}
