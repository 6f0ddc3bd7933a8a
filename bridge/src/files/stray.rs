//! What stands where a file should: what a clone without its large files, or a download that failed, leaves.

/// What a file that begins so is, and what to do; none where it is nothing of the kind.
pub(crate) fn stray(start: &[u8]) -> Option<&'static str> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let start = start.trim_ascii_start();
    let begins = |word: &str| {
        let head = start.get(..word.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
    };
    if begins("version https://git-lfs.github.com/spec/") {
        return Some(
            "is a pointer of Git LFS that stands for the file; git lfs pull, in its folder, fetches the file itself",
        );
    }
    let page = ["<!doctype html", "<html"].into_iter().any(begins);
    page.then_some("is an HTML page, as a failed download leaves; download the file again")
}

#[cfg(test)]
mod tests {
    use super::stray;

    #[test]
    fn pointers_and_pages_are_known() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        assert!(stray(pointer).unwrap().contains("git lfs pull"));
        for page in [
            &b"<!DOCTYPE html><html>"[..],
            b"\xef\xbb\xbf \n<HTML lang=en>",
        ] {
            assert!(stray(page).unwrap().contains("HTML page"));
        }
        for other in [&b""[..], b"version", b"{\"version\": 1}", b"<", b"GGUF"] {
            assert_eq!(stray(other), None);
        }
    }
}
