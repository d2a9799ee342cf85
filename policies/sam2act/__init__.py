"""SAM2Act: keyframes from three virtual views of a point cloud, with and without memory."""
