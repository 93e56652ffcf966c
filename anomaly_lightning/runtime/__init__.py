"""The ground floor, free of torch: what training, prediction and a production line must do alike."""
