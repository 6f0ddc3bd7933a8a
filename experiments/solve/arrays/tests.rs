use super::*;

#[test]
fn entries_and_paths() {
    assert_eq!(entry("r", &[2, 3, 4], 23), "r[1][2][3]");
    assert_eq!(split("a:b/x.npz:phi"), ("a:b/x.npz", Some("phi")));
    assert_eq!(split("x.npy"), ("x.npy", None));
    assert_eq!(split("x.safetensors"), ("x.safetensors", None));
}

#[test]
fn names_of_a_file_stay_on_one_line() {
    let said = pick(&["r.np\n\u{1b}[2J".into()], Some("r")).unwrap_err();
    assert_eq!(
        said.to_string(),
        r"no array `r`, the file has r.np\n\u{1b}[2J"
    );
}

/// A small file of zeros does not fill the memory; an array as large that is stored as it is may.
#[test]
fn compressed_arrays_have_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let mut writer = ndarray_npy::NpzWriter::new_compressed(File::create(&path).unwrap());
    let zeros = ndarray::Array1::<u8>::zeros(MOST_UNPACKED as usize + 1);
    writer.add_array("r", &zeros).unwrap();
    writer.finish().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    let said = load_npz(&path, None).unwrap_err().to_string();
    assert!(said.contains("unpacks to more than 256 MiB"), "{said}");
}

#[test]
fn half_precision() {
    // Bits by NumPy: np.float16(x).view(np.uint16).
    for (x, bits) in [
        (0.0, 0x0000),
        (-0.1, 0xae66),
        (1.0, 0x3c00),
        (65504.0, 0x7bff),
        (5.960464477539063e-8, 0x0001),
        (f64::NEG_INFINITY, 0xfc00),
    ] {
        let rounded = if x == -0.1 { -0.0999755859375 } else { x };
        assert_eq!(half(bits), rounded);
    }
    assert!(half(0x7e00).is_nan());
}

#[test]
fn a_header_that_promises_too_much_is_refused() {
    let mut bytes = b"\x93NUMPY\x01\x00\x50\x00".to_vec();
    let mut header =
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999, 9999999), }".to_vec();
    header.resize(0x50, b' ');
    bytes.extend(header);
    assert!(
        parse_npy(&bytes)
            .unwrap_err()
            .to_string()
            .contains("cut off")
    );
    for end in 0..bytes.len() {
        assert!(parse_npy(&bytes[..end]).is_err());
    }
}
