"""The exercises of each lesson: cases, known slips, hints. One file a lesson."""
