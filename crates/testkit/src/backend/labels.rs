//! The checks on labels, and on what is dropped.

use insula_config_model::BackendFault;

use super::ground::Ground;

pub(super) async fn labels_move(ground: Ground) {
    for version in 1..=3 {
        ground.put("a", version).await;
    }
    ground.put("b", 1).await;
    ground.label("a", "stable", Some(1)).await.unwrap();
    ground.label("a", "Stable", Some(2)).await.unwrap();
    ground.label("a", "release-1.2", Some(1)).await.unwrap();
    assert_eq!(ground.labels("a", 1).await, ["release-1.2", "stable"]);
    assert_eq!(ground.labels("a", 2).await, ["Stable"], "labels are told apart by the size of letters");
    ground.label("a", "stable", Some(3)).await.unwrap();
    ground.label("a", "stable", Some(3)).await.unwrap();
    assert_eq!(ground.labels("a", 1).await, ["release-1.2"]);
    assert_eq!(ground.labels("a", 3).await, ["stable"]);
    let newest = ground.newest("a").await.expect("the newest");
    assert_eq!(newest.labels.iter().map(ToString::to_string).collect::<Vec<_>>(), ["stable"]);
    assert_eq!(ground.labels("b", 1).await, [""; 0]);
    ground.label("a", "release-1.2", None).await.unwrap();
    ground.label("a", "release-1.2", None).await.unwrap();
    assert_eq!(ground.labels("a", 1).await, [""; 0]);
    ground.put("a", 4).await;
    assert_eq!(ground.labels("a", 3).await, ["stable"], "a label stays where it is when a version comes");
    assert_eq!(ground.labels("a", 4).await, [""; 0]);
}

pub(super) async fn label_on_nothing(ground: Ground) {
    let missing = |done: Result<(), BackendFault>, version| match done {
        Err(BackendFault::NoVersion(named)) => assert_eq!(named, version),
        other => panic!("{other:?} for a label on version {version}, which there is not"),
    };
    missing(ground.label("a", "stable", Some(1)).await, 1);
    ground.put("a", 1).await;
    ground.label("a", "stable", Some(1)).await.unwrap();
    missing(ground.label("a", "stable", Some(2)).await, 2);
    missing(ground.label("a", "fresh", Some(2)).await, 2);
    assert_eq!(ground.labels("a", 1).await, ["stable"], "a label that was refused stays where it was");
    ground.put("a", 2).await;
    assert_eq!(ground.labels("a", 2).await, [""; 0], "a label waited for its version");
    assert!(ground.label("none", "stable", None).await.is_ok(), "what is not there can be taken away");
}

pub(super) async fn labels_bounded(ground: Ground) {
    ground.put("a", 1).await;
    ground.put("a", 2).await;
    let max = ground.backend.limits().labels_max;
    let count = max.unwrap_or(30);
    for number in 0..count {
        ground.label("a", &format!("l{number}"), Some(1)).await.unwrap();
    }
    assert_eq!(ground.labels("a", 1).await.len(), count as usize);
    match (max, ground.label("a", "more", Some(1)).await) {
        (Some(_), Err(BackendFault::Refused(_))) => {
            assert_eq!(ground.labels("a", 1).await.len(), count as usize);
            ground.label("a", "more", Some(2)).await.unwrap();
        }
        (None, Ok(())) => {}
        (_, other) => panic!("{other:?} for label {} of {max:?}", count + 1),
    }
}

pub(super) async fn trimmed(ground: Ground) {
    for version in 1..=8 {
        ground.put("a", version).await;
        ground.put("a.b", version).await;
    }
    ground.label("a", "stable", Some(2)).await.unwrap();
    let bounded = ground.backend.limits().versions_max.is_some();
    let trim = async |keep| {
        let key = "a".parse().unwrap();
        ground.backend.trim(&ground.scope, &key, keep).await.unwrap()
    };
    let dropped = trim(3).await;
    if bounded {
        assert_eq!(ground.history("a", None, 10).await.len() + dropped as usize, 8);
    } else {
        assert_eq!(dropped, 4);
        assert_eq!(ground.history("a", None, 10).await, [8, 7, 6, 2]);
        assert_eq!(ground.at("a", 1).await, None);
        assert_eq!(trim(3).await, 0);
    }
    assert_eq!(ground.labels("a", 2).await, ["stable"]);
    assert_eq!(ground.history("a.b", None, 10).await.len(), 8, "another key's versions were dropped");
    ground.put("a", 9).await;
    ground.label("a", "stable", Some(9)).await.unwrap();
    trim(1).await;
    assert_eq!(ground.history("a", None, 1).await, [9]);
    if !bounded {
        assert_eq!(ground.history("a", None, 10).await, [9], "a version that lost its label is dropped");
    }
    assert_eq!(ground.newest_version("a").await, 9);
}

/// A label and a trim at once: where the label was acknowledged, its version stays.
pub(super) async fn label_or_trim(ground: Ground) {
    for round in 0..15 {
        let name = format!("a{round}");
        for version in 1..=3 {
            ground.put(&name, version).await;
        }
        let (labelling, trimming) = (ground.clone(), ground.clone());
        let (first, second) = (name.clone(), name.parse().unwrap());
        let label = async move { labelling.label(&first, "stable", Some(1)).await };
        let trim = async move { trimming.backend.trim(&trimming.scope, &second, 1).await };
        let (labelled, trimmed) = if round % 2 == 0 {
            (tokio::spawn(label), tokio::spawn(trim))
        } else {
            let trimmed = tokio::spawn(trim);
            (tokio::spawn(label), trimmed)
        };
        let (labelled, trimmed) = (labelled.await.unwrap(), trimmed.await.unwrap());
        trimmed.unwrap();
        match labelled {
            Ok(()) => assert_eq!(ground.labels(&name, 1).await, ["stable"], "a labelled version was dropped"),
            Err(BackendFault::NoVersion(1)) => assert_eq!(ground.at(&name, 1).await, None),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// A backend that drops the oldest version by itself stops at one with a label.
pub(super) async fn labelled_for_ever(ground: Ground) {
    let Some(max) = ground.backend.limits().versions_max else { return };
    let max = i64::from(max);
    ground.put("a", 1).await;
    ground.label("a", "stable", Some(1)).await.unwrap();
    let mut version = 1;
    while version < max + 3 {
        match ground.try_put("a", version + 1, version).await {
            Ok(()) => version += 1,
            Err(BackendFault::Refused(_)) if version >= max - 1 => break,
            Err(other) => panic!("version {}: {other:?}", version + 1),
        }
    }
    assert_eq!(ground.labels("a", 1).await, ["stable"], "dropped after version {version}");
    ground.label("a", "stable", Some(version)).await.unwrap();
    ground.put("a", version + 1).await;
    assert_eq!(ground.newest_version("a").await, version + 1);
    assert_eq!(ground.labels("a", version).await, ["stable"]);
}
