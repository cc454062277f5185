//! Large files: pieces, connections that break off, damaged bytes.

use super::*;

/// Bytes of a request.
const PIECE: usize = 64 << 20;
const SIZE: usize = PIECE + 1000;
const ALL: usize = usize::MAX;

/// A server of a file of two pieces that sends only the first bytes of each answer with content.
fn cutting<const N: usize>(lengths: [usize; N]) -> Server {
    let repository = Repository { id: ID, files: vec![("large.bin", vec![7; SIZE])] };
    let (mut lengths, answers) = (lengths.into_iter(), repository.clone());
    Server::new(repository, move |request| {
        let is_content = request.path.starts_with("/cdn/") && !request.is_head;
        let cut = is_content.then(|| lengths.next())??;
        Some(Answer { cut: Some(cut), ..answers.answer(request) })
    })
}

const FIRST: &str = "bytes=0-67108863";
const SECOND: &str = "bytes=67108864-67109863";

fn large(hub: &Hub) -> conditioned_data::Result<Vec<PathBuf>> {
    hub.dataset(ID, "main", |path| path == "large.bin")
}

fn is_large(files: &[PathBuf]) {
    assert!(fs::read(&files[0]).unwrap() == vec![7; SIZE]);
}

#[test]
fn a_download_that_breaks_off_goes_on_from_the_last_piece() {
    let (server, cache) = (cutting([400, ALL, 0, 0, 100]), TempDir::new().unwrap());
    is_large(&large(&hub(&server, &cache)).unwrap());
    assert_eq!(ranges(&server), [FIRST, FIRST, SECOND, SECOND, SECOND, SECOND]);
}

#[test]
fn a_download_that_breaks_off_for_good_is_no_file() {
    let (server, cache) = (cutting([ALL, 400, 0, 0, 0]), TempDir::new().unwrap());
    let words =
        ["owner/name", "large.bin broke off after 67108864 of 67109864 bytes", "run it again"];
    message(large(&hub(&server, &cache)), &words);
    assert_eq!(blobs(&cache).len(), 1);
    assert!(blobs(&cache)[0].ends_with(".incomplete"));
    message(large(&offline(&cache)), &["no revision main in the cache"]);
    server.requests();
    // The next run goes on.
    is_large(&large(&hub(&server, &cache)).unwrap());
    assert_eq!(ranges(&server), [SECOND]);
    assert!(blobs(&cache).iter().all(|name| name.len() == 64));
}

#[test]
fn a_server_that_knows_no_ranges_is_understood() {
    let cache = TempDir::new().unwrap();
    let repository = Repository { id: ID, files: vec![("large.bin", vec![7; SIZE])] };
    let server = Server::new(repository, move |request| {
        request.path.starts_with("/cdn/").then(|| Answer::new(200, vec![7; SIZE]))
    });
    is_large(&large(&hub(&server, &cache)).unwrap());
}

#[test]
fn a_part_that_was_whole_or_is_not_of_the_file_does_no_harm() {
    let cache = TempDir::new().unwrap();
    let mut broken = 4;
    let server = Server::new(repository(), move |request| {
        let breaks = request.path.starts_with("/cdn/") && !request.is_head && broken > 0;
        broken -= usize::from(breaks);
        breaks.then(|| Answer { cut: Some(0), ..Answer::new(200, content("data/train-0.bin")) })
    });
    message(one(&hub(&server, &cache)), &["broke off after 0 of 1000"]);
    let folder = cache.path().join("hub/datasets--owner--name/blobs");
    let part = folder.join(&blobs(&cache)[0]);
    // Killed between the last byte and the renaming.
    fs::write(&part, content("data/train-0.bin")).unwrap();
    one(&hub(&server, &cache)).unwrap();
    assert_eq!(ranges(&server).len(), 4);
    for part_of_another in [&[1; 500][..], &[1; 2000]] {
        fs::remove_file(folder.join(&blobs(&cache)[0])).unwrap();
        fs::write(&part, part_of_another).unwrap();
        let result = one(&hub(&server, &cache));
        let files = result.or_else(|_| one(&hub(&server, &cache))).unwrap();
        assert_eq!(fs::read(&files[0]).unwrap(), content("data/train-0.bin"));
    }
}

#[test]
fn damaged_bytes_never_enter_the_cache() {
    for body in [vec![1; 1000], vec![1; 5000]] {
        let cache = TempDir::new().unwrap();
        let server = Server::new(repository(), move |request| {
            request.path.starts_with("/cdn/").then(|| Answer::new(200, body.clone()))
        });
        message(one(&hub(&server, &cache)), &["owner/name", "train-0.bin came damaged", "again"]);
        assert_eq!(blobs(&cache), [""; 0]);
    }
}
