//! COCO data sets in files: what is read, left out, refused and damaged.

use std::fs;
use std::path::Path;
use std::process::Command;

use conditioned_data::{CocoSet, Error, Rle};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::corruption::check;
use crate::damage::Cut;

/// Tells the test binary, started once more, which folder to read.
const WARN_OF: &str = "CONDITIONED_DATA_TEST_WARN_OF";

/// Three images with four objects, in every form of a segmentation.
fn dataset() -> Value {
    let image = |id: u64, split: &str| {
        let file = format!("part/{id}.png");
        json!({"id": id, "file_name": file, "height": 6, "width": 8, "split": split})
    };
    json!({
        "info": {"description": "four objects"},
        "images": [image(30, "train"), image(10, "val"), image(20, "train")],
        "annotations": [
            {"id": 4, "image_id": 30, "category_id": 9, "bbox": [1, 1, 4, 3], "area": 11.5, "iscrowd": 0,
             "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]},
            {"id": 3, "image_id": 10, "category_id": 2, "bbox": [0, 0, 2, 6], "area": 12, "iscrowd": 1,
             "segmentation": {"size": [6, 8], "counts": [0, 12, 36]}},
            {"id": 2, "image_id": 30, "category_id": 2, "bbox": [0, 0, 2, 6], "iscrowd": 0,
             "segmentation": {"size": [6, 8], "counts": "0<T1"}},
            {"id": 1, "image_id": 20, "category_id": 9, "bbox": [0.5, 0.25, 7.5, 5.75], "area": 40, "iscrowd": 0,
             "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3], [4, 2, 8, 2, 8, 6, 4, 6]]},
        ],
        "categories": [{"id": 9, "name": "dog", "supercategory": "animal"}, {"id": 2, "name": "cat"}],
    })
}

/// Writes annotations and images, of which each has its colour.
fn write(folder: &Path, dataset: &Value) {
    fs::create_dir_all(folder.join("images/part")).unwrap();
    for id in [10, 20, 30] {
        let path = folder.join(format!("images/part/{id}.png"));
        RgbImage::from_pixel(8, 6, Rgb([id, 1, 2])).save(path).unwrap();
    }
    fs::write(folder.join("set.json"), dataset.to_string()).unwrap();
}

fn read(
    folder: &Path,
    split: Option<&str>,
    skip_broken: bool,
) -> conditioned_data::Result<CocoSet> {
    CocoSet::read(&folder.join("set.json"), &folder.join("images"), split, skip_broken)
}

#[test]
fn images_and_objects_are_those_of_the_file() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &dataset());
    let set = read(folder.path(), None, false).unwrap();
    assert_eq!((set.name(), set.len(), set.is_empty(), set.broken()), ("images", 3, false, 0));
    let categories: Vec<_> = set.categories().iter().map(|c| (c.id, &*c.name)).collect();
    assert_eq!(categories, [(2, "cat"), (9, "dog")]);
    let ids: Vec<_> = set.images().iter().map(|image| image.id).collect();
    assert_eq!(ids, [10, 20, 30]);

    let instances = &set.images()[2].instances;
    let of =
        |i: usize| (instances[i].id, instances[i].category, instances[i].area, instances[i].crowd);
    assert_eq!((of(0), of(1)), ((4, 1, 11.5, false), (2, 0, 12.0, false)));
    assert_eq!(instances[0].mask, Rle::of_box([1.0, 1.0, 4.0, 3.0], 6, 8).unwrap());
    assert_eq!(instances[0].bbox, [1.0, 1.0, 4.0, 3.0]);
    let crowd = &set.images()[0].instances[0];
    assert!(crowd.crowd && crowd.mask == instances[1].mask);
    assert_eq!(crowd.mask.bbox(), [0.0, 0.0, 2.0, 6.0]);
    assert_eq!(set.images()[1].instances[0].mask.area(), 9 + 16);
    assert_eq!(set.truth()[2], (30, &instances[..]));

    for (i, id) in [10, 20, 30].into_iter().enumerate() {
        assert_eq!(set.pixels(i).unwrap(), [id, 1, 2].repeat(48));
    }
    assert!(set.pixels(3).unwrap_err().to_string().contains("index 3 is past the end of 3 images"));
    let some = set.subset(&[2, 0, 2]).unwrap();
    assert_eq!(
        (some.len(), &some.images()[0], &some.images()[1]),
        (3, &set.images()[2], &set.images()[0])
    );
    assert!(std::sync::Arc::ptr_eq(&some.images()[1], &set.images()[0]), "copied");
    assert!(matches!(set.subset(&[3]), Err(Error::Images { .. })));
}

#[test]
fn a_split_is_read_alone() {
    let folder = TempDir::new().unwrap();
    let mut dataset = dataset();
    // Entries of the others are not looked at.
    dataset["images"][1]["file_name"] = json!("nowhere.png");
    dataset["annotations"][1]["bbox"] = json!([0, 0, 0, 0]);
    write(folder.path(), &dataset);
    let train = read(folder.path(), Some("train"), false).unwrap();
    let ids: Vec<_> = train.images().iter().map(|i| (i.id, i.instances.len())).collect();
    assert_eq!(ids, [(20, 1), (30, 2)]);
    assert!(
        read(folder.path(), Some("val"), false).unwrap_err().to_string().contains("nowhere.png")
    );
    let none = read(folder.path(), Some("test"), false).unwrap_err().to_string();
    assert!(none.contains("set.json: no image has the `split` \"test\""), "{none}");
}

#[test]
fn what_matters_changes_the_hash() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &dataset());
    let hashes = |dataset: &Value| {
        fs::write(folder.path().join("set.json"), dataset.to_string()).unwrap();
        let set = read(folder.path(), None, false).unwrap();
        (set.hash().unwrap(), set.listing_hash().unwrap())
    };
    let mut seen = vec![hashes(&dataset())];
    let mut same = dataset();
    same["info"] = json!({});
    same["images"].as_array_mut().unwrap().reverse();
    assert_eq!(hashes(&same), seen[0]);
    let changes: [(&str, Value); 8] = [
        ("/annotations/0/id", json!(5)),
        ("/annotations/0/bbox/0", json!(0.5)),
        ("/annotations/0/area", json!(11)),
        ("/annotations/0/iscrowd", json!(1)),
        ("/annotations/0/category_id", json!(2)),
        ("/annotations/0/image_id", json!(10)),
        ("/annotations/1/segmentation/counts", json!([0, 11, 37])),
        ("/categories/0/name", json!("hound")),
    ];
    for (at, value) in changes {
        let mut other = dataset();
        *other.pointer_mut(at).unwrap() = value;
        let hashes = hashes(&other);
        assert!(seen.iter().all(|s| s.0 != hashes.0 && s.1 != hashes.1), "{at}");
        seen.push(hashes);
    }
    let path = folder.path().join("images/part/20.png");
    RgbImage::from_pixel(8, 6, Rgb([21, 1, 2])).save(&path).unwrap();
    assert_ne!(hashes(&dataset()).0, seen[0].0);
}

#[test]
fn what_is_wrong_is_named_or_left_out() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &dataset());
    fs::write(folder.path().join("images/part/text.png"), "no image").unwrap();
    // Where, what is put there, the message, and how many images and objects are left.
    let wrong: [(&str, Value, &str, [usize; 2]); 24] = [
        ("/images/2/file_name", json!("part/2.png"), "image 20: no file \"part/2.png\" in", [2, 3]),
        (
            "/images/2/file_name",
            json!("../set.json"),
            "image 20: the path \"../set.json\" leaves",
            [2, 3],
        ),
        ("/images/2/height", json!(0), "image 20: 0 x 8 pixels", [2, 3]),
        ("/images/2/width", json!(1 << 30), "image 20: 6 x 1073741824 pixels, and 1 to", [2, 3]),
        (
            "/images/2/width",
            json!("8"),
            "image 20: invalid type: string \"8\", expected u32",
            [2, 3],
        ),
        ("/images/2/id", json!(10), "image 10 comes twice", [2, 3]),
        ("/annotations/3/id", json!(2), "annotation 2 comes twice", [3, 3]),
        (
            "/annotations/3/id",
            json!(-1),
            "annotation number 3 (from 0) of the list: invalid value",
            [3, 3],
        ),
        ("/annotations/3/image_id", json!(5), "annotation 1: image 5 is none of the list", [3, 3]),
        (
            "/annotations/3/category_id",
            json!(5),
            "annotation 1: category 5 is none of the list",
            [3, 3],
        ),
        (
            "/annotations/3/bbox",
            json!([1, 1, 4, -4]),
            "annotation 1: the box [1.0, 1.0, 4.0, -4.0] (left, top, width, height) has a side below 0",
            [3, 3],
        ),
        (
            "/annotations/3/bbox",
            json!([1, 1, 8.5, 4]),
            "is outside its image of 6 x 8 pixels",
            [3, 3],
        ),
        ("/annotations/3/bbox", json!([-1.5, 1, 8, 4]), "is outside its image", [3, 3]),
        ("/annotations/3/bbox", json!([1, 1, 4]), "annotation 1: invalid length 3", [3, 3]),
        ("/annotations/3/area", json!(-1), "annotation 1: area -1 is none", [3, 3]),
        ("/annotations/3/iscrowd", json!(2), "annotation 1: `iscrowd` is 2", [3, 3]),
        ("/annotations/3/segmentation", json!(null), "annotation 1: no `segmentation`", [3, 3]),
        ("/annotations/3/segmentation", json!([]), "annotation 1: mask: no polygon", [3, 3]),
        ("/annotations/3/segmentation/1", json!([]), "a polygon of 0 corners", [3, 3]),
        (
            "/annotations/3/segmentation/1",
            json!([1, 2, 3, 4, 5, 6, 7]),
            "a polygon of 7 numbers",
            [3, 3],
        ),
        (
            "/annotations/3/segmentation/1/3",
            json!(1e9),
            "number 3 of a polygon is 1000000000",
            [3, 3],
        ),
        (
            "/annotations/1/segmentation/size",
            json!([8, 6]),
            "annotation 3: a mask of 8 x 6 pixels in",
            [3, 3],
        ),
        (
            "/annotations/1/segmentation/counts",
            json!([0, 12]),
            "annotation 3: mask: its runs add up to 12",
            [3, 3],
        ),
        (
            "/annotations/2/segmentation/counts",
            json!("0<T"),
            "annotation 2: mask: its string is cut",
            [3, 3],
        ),
    ];
    for (at, value, message, left) in wrong {
        let mut dataset = dataset();
        *dataset.pointer_mut(at).unwrap() = value;
        fs::write(folder.path().join("set.json"), dataset.to_string()).unwrap();
        let error = read(folder.path(), None, false).unwrap_err().to_string();
        assert!(error.contains("set.json: ") && error.contains(message), "{at}: {error}");
        assert!(error.ends_with("or have what is broken left out"), "{error}");
        let set = read(folder.path(), None, true).unwrap();
        let objects: usize = set.images().iter().map(|image| image.instances.len()).sum();
        assert_eq!([set.len(), objects], left, "{at}");
        // The object of an image that has the id of another is of none.
        let broken = 1 + usize::from(at == "/images/2/id");
        assert_eq!(set.broken(), broken, "{at}");
    }
}

/// As annotation 918 of COCO's own training set, whose box is [296.65, 388.33, 1.03, 0.0].
#[test]
fn a_box_without_area_is_left_out() {
    let folder = TempDir::new().unwrap();
    for bbox in [json!([1, 1, 1.03, 0.0]), json!([1, 1, 0, 4])] {
        let mut dataset = dataset();
        dataset["annotations"][3]["bbox"] = bbox;
        write(folder.path(), &dataset);
        let set = read(folder.path(), None, false).unwrap();
        let objects: usize = set.images().iter().map(|image| image.instances.len()).sum();
        assert_eq!((set.len(), objects, set.broken()), (3, 3, 0));
    }
}

/// The child of the test below, which gives it the folder.
#[test]
#[ignore = "one listener for the whole process, which must be a process of its own"]
fn warn() {
    let Some(folder) = std::env::var_os(WARN_OF) else { return };
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    assert_eq!(read(Path::new(&folder), None, true).unwrap().broken(), 4);
}

#[test]
fn a_warning_names_the_first_that_are_left_out() {
    let folder = TempDir::new().unwrap();
    let mut dataset = dataset();
    for annotation in dataset["annotations"].as_array_mut().unwrap() {
        annotation["category_id"] = json!(7);
    }
    write(folder.path(), &dataset);
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "coco::files::warn", "--ignored", "--nocapture"]);
    let output = child.env(WARN_OF, folder.path()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(output.status.success() && passed, "{log}");
    assert!(log.contains("WARN") && log.contains("set.json: 4 broken images and"), "{log}");
    assert!(log.contains("annotation 4: category 7 is none of the list"), "{log}");
    assert!(log.contains("annotation 2") && !log.contains("annotation 1"), "{log}");
}

#[test]
fn an_image_of_another_size_is_found_when_it_is_decoded() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &dataset());
    fs::write(folder.path().join("images/part/10.png"), "no image").unwrap();
    RgbImage::new(6, 8).save(folder.path().join("images/part/20.png")).unwrap();
    let set = read(folder.path(), None, false).unwrap();
    let error = set.pixels(0).unwrap_err().to_string();
    assert!(error.contains("10.png: its content is that of no image"), "{error}");
    let error = set.pixels(1).unwrap_err().to_string();
    assert!(
        error.contains("set.json: image 20 is 6 x 8 pixels") && error.contains("20.png"),
        "{error}"
    );
    let set = read(folder.path(), None, true).unwrap();
    assert_eq!((set.len(), set.images()[0].id, set.broken()), (1, 30, 2));
}

#[test]
fn what_is_no_data_set_is_refused() {
    let folder = TempDir::new().unwrap();
    let refuse = |dataset: &str, message: &str| {
        fs::write(folder.path().join("set.json"), dataset).unwrap();
        for skip_broken in [false, true] {
            let error = read(folder.path(), None, skip_broken).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    };
    let whole = dataset();
    write(folder.path(), &whole);
    let text = whole.to_string();
    refuse(&text[..text.len() / 2], "set.json: cut short");
    refuse("", "set.json: cut short");
    refuse("[]", "an object with `images`, `annotations` and `categories`");
    refuse("{}", "set.json: no annotations of COCO (missing field");
    refuse("{\"images\": [], \"annotations\": [], \"categories\": []}", "set.json: no category");
    let without = |key: &str, value: Value| {
        let mut dataset = dataset();
        dataset[key] = value;
        dataset.to_string()
    };
    refuse(&without("images", json!([])), "set.json: ");
    let twice = json!([{"id": 2, "name": "cat"}, {"id": 2, "name": "dog"}]);
    refuse(&without("categories", twice), "\"cat\" and \"dog\" are both category 2");

    fs::write(folder.path().join("set.json"), &text).unwrap();
    let json = folder.path().join("set.json");
    let error = |json: &Path, images: &Path| {
        CocoSet::read(json, images, None, false).unwrap_err().to_string()
    };
    assert!(
        error(folder.path(), folder.path()).contains("a folder, where a JSON file is expected")
    );
    assert!(error(&json, &folder.path().join("none")).contains("none: no such folder"));
    assert!(error(&json, &json).contains("set.json: no such folder"));
    assert!(error(&folder.path().join("no.json"), folder.path()).contains("no.json"));
}

#[test]
fn damaged_files_are_found() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &dataset());
    let read = |path: &Path| {
        let set = read(path, None, false)?;
        (0..set.len()).map(|i| set.pixels(i)).collect::<conditioned_data::Result<Vec<_>>>()
    };
    let [json, image] = ["set.json", "images/part/20.png"].map(|file| folder.path().join(file));
    let path = folder.path().to_path_buf();
    check("annotations of COCO", [json], Cut::Known, move || read(&path));
    // A PNG has all of its pixels before it ends.
    let path = folder.path().to_path_buf();
    check("images of COCO", [image], Cut::Lines, move || read(&path));
}

#[test]
fn damaged_results_are_found() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &dataset());
    let set = read(folder.path(), None, false).unwrap();
    let path = folder.path().join("results.json");
    let results = json!([
        {"image_id": 10, "category_id": 2, "score": 0.75, "bbox": [0.5, 1, 2, 3]},
        {"image_id": 20, "category_id": 9, "score": 0.5, "segmentation": {"size": [6, 8], "counts": "0<T1"}},
    ]);
    fs::write(&path, results.to_string()).unwrap();
    let categories = set.categories().to_vec();
    check("results of COCO", [path.clone()], Cut::Known, move || {
        conditioned_data::read_detections(&path, &categories)
    });
}
