"""
All the bad input that must be survived, line by line, and the tests that hold each item.

The lines are those of the list that the project was begun with: what other systems of this kind
did not survive. C{INPUT} and the like are short for the modules of tests that they name.
"""

from __future__ import annotations

import importlib
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

INPUT: Final = "test_bad_input"

HELD: Final[dict[tuple[int, str], dict[str, tuple[str, ...]]]] = {
    (1, "names"): {
        "each hostile name, as asked for by a peer": (f"{INPUT}.AskedTests.test_hostile_paths",),
        "each hostile name, as told by a peer": (
            f"{INPUT}.FetchedTests.test_hostile_names",
            "test_fetch.TargetTests.test_name",
        ),
        "each hostile name, as found in a share": ("test_shares.WalkTests.test_unsafe_names",),
        "each hostile name, as typed": ("test_cli_usage.UsageTests.test_hostile_paths",),
        "parts, one by one": (
            "test_paths.Names.test_refused",
            "test_paths.Names.test_new_names",
            "test_paths.Paths.test_every_part_counts",
        ),
        "255 bytes, 4096 bytes": (
            "test_paths.Paths.test_longest",
            "test_shares.WalkTests.test_long_path",
        ),
        "1000 levels deep": ("test_paths.Paths.test_refused", "test_shares.WalkTests.test_deep"),
        "NFC and NFD twins, case twins": (
            "test_paths.Twins.test_twins",
            "test_publish.Publishing.test_twins",
            "test_publish.Publishing.test_replace_beside_a_twin",
        ),
        "a file for a folder, a folder for a file": (
            "test_paths.Opening.test_not_there",
            "test_publish.Publishing.test_never_over_a_folder",
        ),
        "whatever is shown is escaped": (
            "test_paths.Display.test_always_prints",
            "test_cli_running.ProgressTests.test_bar",
            "test_registry_client.ReconnectTests.test_escaped",
            "test_registry_server.LogTests.test_escaped",
            "test_beacon.BeaconTests.test_hostile_name",
        ),
        "our own hidden names": ("test_paths.Names.test_own_names",),
    },
    (2, "links and what is no file"): {
        "a link as parent or as file": (
            "test_paths.Opening.test_links_are_not_followed",
            f"{INPUT}.AskedTests.test_hostile_paths",
            "test_library.StatTests.test_behind_a_link",
        ),
        "a link as target": (
            "test_publish.Publishing.test_never_over_anything",
            "test_publish.Publishing.test_replace_a_link",
        ),
        "a link as temporary file": (
            "test_partial.Resuming.test_links_in_place",
            "test_partial.Resuming.test_second_name",
            "test_partial.Resuming.test_journal_with_second_name",
        ),
        "swapped in between": (
            f"{INPUT}.AskedTests.test_swapped_for_a_link",
            "test_shares.WalkTests.test_swapped",
            "test_publish.Publishing.test_appears_at_the_last_instant",
        ),
        "links out, FIFOs, sockets in a share": (
            "test_shares.WalkTests.test_no_regular_files",
            "test_paths.Opening.test_only_regular_files",
        ),
        "devices": (f"{INPUT}.MachineTests.test_device",),
        "unreadable": (
            "test_shares.WalkTests.test_unreadable",
            "test_shares.WalkTests.test_searchable_only",
            "test_library.ScanTests.test_unreadable_for_now",
        ),
    },
    (3, "mode bits"): {
        "none come from the sender": ("test_partial.Downloading.test_mode_and_time",),
        "times that cannot be": ("test_partial.Downloading.test_hostile_times",),
    },
    (4, "frames"): {
        "negative, zero, one over the cap, the largest": (
            "test_frame.ReadTests.test_lengths",
            "test_frame.ReadTests.test_memory",
            f"{INPUT}.AskedTests.test_hostile_frames",
        ),
        "truncated at every byte": (
            "test_frame.ReadTests.test_truncated",
            "test_messages.CodecTests.test_truncated",
            f"{INPUT}.AskedTests.test_truncated",
            "test_conversation.EndTests.test_ends_within_a_frame",
        ),
        "unknown kind": (
            "test_frame.ReadTests.test_strange_kinds",
            f"{INPUT}.AskedTests.test_hostile_frames",
        ),
        "known kind at the wrong time": (
            "test_conversation.GreetingTests.test_no_hello",
            "test_conversation.GreetingTests.test_second_hello",
            "test_conversation.OpenTests.test_wrong_time",
            "test_registry_server.StrangerTests.test_wrong_time",
        ),
        "a thousand cancels": ("test_transfer_server.CancelTests.test_a_thousand_times",),
        "ten thousand requests unread": (
            "test_transfer_server.HostileTests.test_ten_thousand_requests_unread",
        ),
        "two answers for one request": (
            f"{INPUT}.AnsweredTests.test_answered_twice",
            "test_transfer_source.ViolationTests.test_request_that_nobody_made",
        ),
    },
    (5, "MessagePack"): {
        "deep nesting": ("test_messages.HostileTests.test_deep",),
        "huge maps": ("test_messages.HostileTests.test_huge_map",),
        "wrong types": ("test_messages.HostileTests.test_wrong_types",),
        "lone surrogates": (
            "test_messages.HostileTests.test_no_text",
            "test_messages.CodecTests.test_half_characters",
        ),
        "beyond 64 bits": (
            f"{INPUT}.AskedTests.test_hostile_frames",
            f"{INPUT}.AnsweredTests.test_hostile_answers",
        ),
        "a million declared and one sent": ("test_messages.HostileTests.test_declared",),
        "the same in datagrams": (
            "test_datagram.DecodeTests.test_hostile_messagepack",
            "test_datagram.DecodeTests.test_limits",
        ),
    },
    (6, "sizes that lie"): {
        "a size that changes while serving": (
            "test_transfer_server.ReadTests.test_file_that_changes_midway",
            "test_library.OpenTests.test_changes_while_open",
            "test_hashing.TroubleTests.test_cut",
        ),
        "2^63 bytes": (
            f"{INPUT}.AnsweredTests.test_hostile_answers",
            "test_messages.HostileTests.test_size_of_a_file",
        ),
        "a root that does not fit the size": (
            f"{INPUT}.FetchedTests.test_sizes_that_lie",
            "test_tree.VerifierTests.test_forged_size",
            "test_fetch.FetcherTests.test_lie_about_the_size",
        ),
        "a page of wrong length": ("test_tree.VerifierTests.test_wrong_length",),
        "digests of another file": (
            f"{INPUT}.FetchedTests.test_digests_of_another_file",
            "test_tree.VerifierTests.test_forged_pages",
        ),
    },
    (7, "slow and idle"): {
        "one byte a second in the handshake": (
            "test_conversation.GreetingTests.test_deadline",
            "test_shared_port.SharedPortTests.test_deadline",
            "test_tls.TlsTests.test_silent_in_the_handshake",
        ),
        "half-open connections": (
            "test_conversation.SilenceTests.test_silent",
            "test_registry_server.StrangerTests.test_many_say_nothing",
        ),
        "one who reads nothing": (
            "test_transfer_server.HostileTests.test_one_who_reads_nothing",
            "test_registry_server.StrangerTests.test_does_not_read",
            "test_conversation.SilenceTests.test_stalled",
        ),
        "thousands that say nothing": (
            "test_gate.HalfOpenTests.test_flood_keeps_nobody_out",
            "test_gate.HalfOpenTests.test_room",
        ),
        "one that asks nothing": ("test_transfer_limits.IdleTests.test_nothing_asked",),
    },
    (8, "bad sources"): {
        "garbage": (
            "test_download.LiarTests.test_damaged_block",
            "test_download.LiarTests.test_page_that_lies",
            "test_download.LiarTests.test_wrong_md5",
        ),
        "nothing, at the end or before": (
            "test_download.LiarTests.test_silent_source",
            "test_download.LiarTests.test_md5_that_never_comes",
        ),
    },
    (9, "registry"): {
        "another's address": (
            "test_registry_server.RegisterTests.test_seen_address",
            "test_registry_dial_back.AttemptTests.test_another_node",
            "test_registry_dial_back.NetworkTests.test_victim",
        ),
        "a million registrations": (
            "test_registry_table.LimitTests.test_per_source",
            "test_registry_server.LimitTests.test_one_source",
            "test_registry_server.LimitTests.test_full",
        ),
        "a name that squats, another's id": (
            "test_registry_table.RegistrationTests.test_squatted_name",
            "test_registry_server.RegisterTests.test_other_ticket",
        ),
        "a forged push": (
            "test_registry_server.StrangerTests.test_forged_pushes",
            "test_registry_client.HostileRegistryTests.test_early_push",
            "test_registry_client.HostileRegistryTests.test_unasked_answers",
        ),
        "back in time": (
            "test_registry_client.ListTests.test_back_in_time",
            "test_registry_table.PeerListTests.test_back_in_time",
        ),
        "a victim ten thousand times": (
            "test_registry_client.HostileRegistryTests.test_victim",
            "test_registry_client.HostileRegistryTests.test_victim_by_other_names",
            "test_registry_client.HostileRegistryTests.test_subnet",
            "test_registry_client.HostileRegistryTests.test_too_many",
        ),
    },
    (10, "beacon"): {
        "spoofed source": (
            "test_discovery_engine.SeeingTests.test_goodbye_of_others",
            "test_beacon.BeaconTests.test_forged_goodbye",
            "test_beacon.BeaconTests.test_far_away",
            "test_sealing.SealTests.test_other_source",
        ),
        "replayed": (
            "test_discovery_engine.SeeingTests.test_replay",
            "test_discovery_engine.SeeingTests.test_replay_after_goodbye",
            "test_closed_beacons.RecordingTests.test_elsewhere",
            "test_closed_beacons.RecordingTests.test_to_newcomers",
        ),
        "wrong network": (
            "test_discovery_engine.SeeingTests.test_other_network",
            "test_closed_beacons.ClosedEngineTests.test_members_only",
        ),
        "oversized": ("test_datagram.DecodeTests.test_oversized",),
        "a flood": (
            "test_discovery_engine.FloodTests.test_one_source",
            "test_discovery_engine.FloodTests.test_budget_of_a_source",
            "test_discovery_engine.FloodTests.test_budget_of_all",
            "test_closed_beacons.ClosedEngineTests.test_budget_before_crypto",
        ),
        "a reply larger than what asked, or without number": (
            "test_discovery_engine.AnsweringTests.test_never_larger",
            "test_discovery_engine.AnsweringTests.test_budget_of_a_subnet",
            "test_discovery_engine.AnsweringTests.test_no_conversation",
        ),
    },
    (12, "machine"): {
        "disk full at every write": (
            "test_disk_failures.Failures.test_any_call_fails",
            "test_disk_failures.Failures.test_disk_full_and_freed",
            "test_catalog.DatabaseTests.test_full",
            "test_secret_file.SecretFileTests.test_disk_full",
        ),
        "read error": (
            "test_disk_failures.Failures.test_read_error",
            "test_transfer_server.ReadTests.test_disk_error_fails_one_request",
            "test_library.OpenTests.test_read_error",
        ),
        "out of descriptors": ("test_paths.Opening.test_out_of_descriptors",),
        "clock jumps": (
            "test_clocks.SteadyTests.test_set",
            "test_clocks.SteadyTests.test_calls_in_time",
            "test_closed_beacons.ClosedBeaconTests.test_clock_is_set",
            "test_bans.TimeOfDayTests.test_clock_is_set",
            "test_closed_beacons.ClosedEngineTests.test_off_clock",
            "test_house.HouseTests.test_rules",
        ),
        "kill -9 at every instant": (
            "test_disk_failures.Failures.test_killed_anywhere",
            "test_disk_failures.Failures.test_power_cut_anywhere",
            "test_catalog.KeptTests.test_killed",
        ),
        "two nodes on one state folder": ("test_identity.StateFolderTests.test_two_nodes",),
        "SQLite file corrupt": (
            "test_catalog.KeptTests.test_any_damage",
            "test_catalog.KeptTests.test_damaged_in_use",
            "test_node.LifeTests.test_damaged_catalog",
        ),
        "folder removed while shared": ("test_library.ScanTests.test_folder_removed",),
        "journal damaged": ("test_journal.Journals.test_any_byte_flipped",),
    },
    (13, "secrets"): {
        "never in argv": ("test_cli_keys.JoinTests.test_as_argument",),
        "never repeated": (
            "test_cli_keys.JoinTests.test_key_is_not_repeated",
            "test_cli_keys.JoinTests.test_key_is_not_repeated_to_programs",
            "test_join_link.RefusalTests.test_any_text",
        ),
        "never in logs and crash reports": (
            f"{INPUT}.MachineTests.test_key_is_never_shown",
            "test_membership.NetworkKeyTests.test_secret",
            "test_join_link.RefusalTests.test_repr",
        ),
        "never in world-readable files": (
            "test_secret_file.SecretFileTests.test_private",
            "test_secret_file.SecretFileTests.test_open_to_others",
            "test_network_file.NetworkFileTests.test_others_can_read",
            "test_identity.StateFolderTests.test_private",
        ),
    },
}
"""By line of the list; line 11, the page and its API, is for when there is one."""


class TableTests(SynchronousTestCase):
    """L{HELD} is true."""

    def test_every_line(self) -> None:
        """No line of the list was forgotten, and no item is held by nothing."""
        self.assertEqual([line for line, _ in HELD], [*range(1, 11), 12, 13])
        for (line, what), items in HELD.items():
            for item, tests in items.items():
                self.assertTrue(tests, f"{line}, {what}: {item}")

    def test_tests_exist(self) -> None:
        """Every test that is named is there, and is one that runs."""
        missing = []
        for items in HELD.values():
            for test in (test for tests in items.values() for test in tests):
                module, case, method = test.split(".")
                found = getattr(importlib.import_module(f"tests.unit.{module}"), case, None)
                is_case = isinstance(found, type) and issubclass(found, SynchronousTestCase)
                if not is_case or not callable(getattr(found, method, None)):
                    missing.append(test)
        self.assertEqual(missing, [])
